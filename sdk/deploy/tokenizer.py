"""Prompts to token ids with the base model's tokenizer, and what is wrong with a prompt."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from ..concepts import Concept, check_tokens, find_positions
from ..drawing_rules import prompt_note


class PromptTokenizer:
    """A tokenizer, and the tokens of packs beside it.

    Args:
        definition: the text of ``tokenizer.json``.
        length: tokens in a prompt; shorter ones are padded, longer ones cut.
        padding: the token to pad with.
        table_size: rows of the text encoder's table; a pack's tokens stand behind it, in order.
    """

    def __init__(self, definition: str, length: int, padding: str, table_size: int) -> None:
        self._definition, self.length, self._padding, self.table_size = definition, length, padding, table_size
        self._lock = threading.Lock()
        self._extended: dict[tuple[str, ...], Tokenizer] = {}

    def ids(self, text: str, concepts: Sequence[Concept]) -> np.ndarray:
        """Return int64 ``[length]``."""
        tokens = tuple(c.token for c in concepts)
        tokenizer = self._tokenizer(tokens)
        ids = np.asarray(tokenizer.encode(text).ids, np.int64)
        for slot, token in enumerate(tokens):
            ids[ids == tokenizer.token_to_id(token)] = -1 - slot  # the vocabulary may be smaller than the table
        return np.where(ids < 0, self.table_size - 1 - ids, ids)

    def check(self, text: str, concepts: Sequence[Concept]) -> str | None:
        """Check a prompt against the concepts it is meant with.

        Returns:
            A note worth telling the user, or ``None``.

        Raises:
            InputError: an empty prompt, an unknown token, or a learned token without its class noun.
        """
        written = check_tokens(text, concepts, "concepts")
        ids = self.ids(text, concepts).tolist()
        for slot, concept in enumerate(concepts):
            if concept.token in written:
                padded = self._tokenizer(()).encode(concept.noun, add_special_tokens=False)
                noun = padded.ids[: sum(padded.attention_mask)]
                find_positions(ids, self.table_size + slot, noun, phrase=concept.phrase)
        whole = self._tokenizer(tuple(c.token for c in concepts)).encode(text)
        return prompt_note(concepts, written, self.length, truncated=bool(whole.overflowing))

    def _tokenizer(self, tokens: tuple[str, ...]) -> Tokenizer:
        with self._lock:
            if tokens not in self._extended:
                made = Tokenizer.from_str(self._definition)
                made.add_special_tokens(list(tokens))
                made.enable_truncation(self.length)
                pad = made.token_to_id(self._padding)
                made.enable_padding(pad_id=pad, pad_token=self._padding, length=self.length)
                self._extended[tokens] = made
            return self._extended[tokens]
