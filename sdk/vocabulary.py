"""A base model's tokenizer, and learned tokens beside it."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import ReferenceType, ref

from torch import Tensor

from .errors import InputError
from .rules.prompts import readable_part, unknown_words

_KEPT = 8  # vocabularies; one holds a copy of the tokenizer, 9 MB at CLIP's size


class Vocabulary:
    """Prompts to ids. Learned tokens have the ids behind the embedding table, in order, whatever the tokenizer numbers.

    A tokenizer may be shorter than the table, or longer by words that have no row, and it may know a learned token's
    name already: here the learned token is meant. May be used by several threads.

    Args:
        tokenizer: the base model's; copied.
        table_size: rows of the text encoder's embedding table.
        tokens: learned tokens, all different.

    Attributes:
        length: ids of every prompt, padding included.
        end: id of the end token.
        own_words: size of the vocabulary without tokens that were added to it, by whomever.
    """

    def __init__(self, tokenizer: Any, table_size: int, tokens: Sequence[str]):
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()  # a tokenizer pads and cuts by settings of its own, which every call sets
        self.table_size = table_size
        self.length = int(self._tokenizer.model_max_length)
        self.own_words = int(self._tokenizer.vocab_size)
        self.end = self._tokenizer.eos_token_id
        self._fill_up()
        if tokens:
            self._tokenizer.add_tokens(list(tokens), special_tokens=True)
        numbers = self._tokenizer.convert_tokens_to_ids(list(tokens))
        self._learned = {number: table_size + slot for slot, number in enumerate(numbers)}
        self._plain = len(self._tokenizer) == table_size + len(tokens) and all(a == b for a, b in self._learned.items())

    def _fill_up(self) -> None:
        """Where the table is larger than the vocabulary, let new tokens land behind it, as exports want them."""
        taken = self._tokenizer.get_vocab() if len(self._tokenizer) < self.table_size else {}
        number = len(self._tokenizer)
        while len(self._tokenizer) < self.table_size:
            missing = self.table_size - len(self._tokenizer)
            names = [f"<unused{i}>" for i in range(number, number + missing)]
            number += missing
            self._tokenizer.add_tokens([name for name in names if name not in taken])

    def tokenizer(self) -> Any:
        """Return a copy of the tokenizer, learned tokens included, for files."""
        with self._lock:
            return copy.deepcopy(self._tokenizer)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Return int64 ``[B, T]``, padded and cut to the model's length.

        Raises:
            InputError: a word without a row in the embedding table.
        """
        with self._lock:
            found = self._tokenizer(
                [readable_part(prompt, self.length) for prompt in prompts],
                padding="max_length",
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            ).input_ids
        return found if self._plain else found.new_tensor([self._own(row) for row in found.tolist()])

    def pieces(self, words: str) -> list[int]:
        """Return the ids of words without start and end token.

        Raises:
            InputError: a word without a row in the embedding table.
        """
        with self._lock:
            found = self._tokenizer(readable_part(words, self.length), add_special_tokens=False).input_ids
        return found if self._plain else self._own(found)

    def truncated(self, prompt: str) -> bool:
        """Whether a prompt is longer than the model reads."""
        with self._lock:
            return len(self._tokenizer(readable_part(prompt, self.length)).input_ids) > self.length

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that a closed vocabulary does not hold, see :mod:`sdk.rules.prompts`."""
        unknown = self._tokenizer.unk_token_id

        def spelled(word: str) -> list[int]:
            with self._lock:
                found = self._tokenizer(word, add_special_tokens=False).input_ids
            return [] if unknown in found else found

        return unknown_words(readable_part(text, self.length), spelled, self.length)

    def _own(self, numbers: Sequence[int]) -> list[int]:
        """The tokenizer's numbers as ids of the model."""
        found = [self._learned.get(number, number) for number in numbers]
        for number, own in zip(numbers, found, strict=True):
            if own >= self.table_size and number not in self._learned:
                word = self._tokenizer.convert_ids_to_tokens(number)
                raise InputError(f"the base model has no embedding of {word!r}; write the prompt without it")
        return found


_vocabularies: OrderedDict[tuple, tuple[ReferenceType, Vocabulary]] = OrderedDict()
_finding = threading.Lock()


def vocabulary_of(tokenizer: Any, table_size: int, tokens: Sequence[str]) -> Vocabulary:
    """Return a tokenizer's vocabulary with learned tokens; the last few that were asked for are kept.

    Args:
        tokenizer: the base model's.
        table_size: rows of the text encoder's embedding table.
        tokens: learned tokens, all different.
    """
    key = (id(tokenizer), len(tokenizer), table_size, tuple(tokens))
    with _finding:
        base, found = _vocabularies.get(key, (None, None))
        if found is None or base is None or base() is not tokenizer:
            found = Vocabulary(tokenizer, table_size, tokens)
            _vocabularies[key] = (ref(tokenizer), found)
        _vocabularies.move_to_end(key)
        while len(_vocabularies) > _KEPT:
            _vocabularies.popitem(last=False)
        return found
