"""Prompts to token ids with the base model's tokenizer, and what is wrong with a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from ..concepts import MAX_CONCEPTS, Concept, check_tokens, find_positions
from ..errors import BaseModelError
from ..rules.drawing import prompt_note
from .clip_tokenizer import is_clips

# Stand for a pack's tokens, by position. Unicode keeps these characters for a program's own use: no text has them, no
# vocabulary knows them. So one tokenizer serves every pack.
_SLOTS = [chr(0xFDD0 + index) for index in range(MAX_CONCEPTS)]
_NOT_IN_TEXT = dict.fromkeys(map(ord, _SLOTS))


class PromptTokenizer:
    """A tokenizer, and the tokens of packs beside it. Nothing in it changes: threads may share it.

    Args:
        definition: the text of ``tokenizer.json``.
        length: tokens in a prompt; shorter ones are padded, longer ones cut.
        padding: the token to pad with.
        table_size: rows of the text encoder's table; a pack's tokens stand behind it, in order.

    Raises:
        BaseModelError: a definition without a tokenizer, without its padding, or with more words than the table.
    """

    def __init__(self, definition: str, length: int, padding: str, table_size: int) -> None:
        self.length, self.table_size = length, table_size
        if not is_clips(definition):
            raise BaseModelError("the tokenizer is none of CLIP's kind; export the model again")
        try:
            self._tokenizer = Tokenizer.from_str(definition)
            highest = max(self._tokenizer.get_vocab().values(), default=0)
            pad = self._tokenizer.token_to_id(padding)
            self._tokenizer.add_special_tokens(_SLOTS)
            self._tokenizer.enable_truncation(length)
            self._tokenizer.enable_padding(pad_id=pad, pad_token=padding, length=length)
            whole = len(self._tokenizer.encode("a").ids) == length
        except Exception as error:  # the library raises nothing narrower
            raise BaseModelError("the tokenizer is damaged; export the model again") from error
        if highest >= table_size + MAX_CONCEPTS or not whole:  # a merged pack's tokens are in the vocabulary
            raise BaseModelError("the tokenizer is not that of the text encoder; export the model again")
        self._slots = [self._tokenizer.token_to_id(slot) for slot in _SLOTS]

    def ids(self, text: str, concepts: Sequence[Concept]) -> np.ndarray:
        """Return int64 ``[length]``."""
        ids = np.asarray(self._tokenizer.encode(_marked(text, concepts)).ids, np.int64)
        for slot, own in enumerate(self._slots[: len(concepts)]):
            ids[ids == own] = -1 - slot  # the vocabulary may be smaller than the table
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
                padded = self._tokenizer.encode(_marked(concept.noun, ()), add_special_tokens=False)
                noun = padded.ids[: sum(padded.attention_mask)]
                find_positions(ids, self.table_size + slot, noun, phrase=concept.phrase)
        whole = self._tokenizer.encode(_marked(text, concepts))
        return prompt_note(concepts, written, self.length, truncated=bool(whole.overflowing))


def _marked(text: str, concepts: Sequence[Concept]) -> str:
    """A text with a mark for each of the pack's tokens."""
    marked = text.translate(_NOT_IN_TEXT)
    for slot, concept in zip(_SLOTS, concepts, strict=False):
        marked = marked.replace(concept.token, slot)
    return marked
