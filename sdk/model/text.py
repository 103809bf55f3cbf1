"""Prompts to text states, with learned tokens that live beside the base model instead of in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..families import Family, TextPart, TextStates
from ..families.states import side_by_side
from ..unet.frozen import hold_ready
from ..views import lock_of, private_view
from ..vocabulary import Vocabulary, vocabulary_of


class _EmbeddingsWithRows(nn.Module):
    """A frozen embedding table with extra rows appended; only the extra rows get gradients."""

    def __init__(self, table: nn.Embedding, rows: Tensor):
        super().__init__()
        self.table = table
        self._rows = [rows]  # in a list, so that it is no parameter: PEFT empties those that are set while it loads

    def forward(self, ids: Tensor) -> Tensor:
        size = self.table.num_embeddings
        extra = ids >= size
        known = self.table(ids.masked_fill(extra, 0)).detach()
        learned = self._rows[0].to(known.dtype)[(ids - size).clamp(min=0)]
        return torch.where(extra[..., None], learned, known)


class _Reader:
    """One text encoder, a view, and its vocabulary with the added tokens."""

    def __init__(self, part: TextPart, tokens: Sequence[str]):
        self.encoder = private_view(part.encoder)
        self.shared = self.encoder is part.encoder  # redirected calls: there is no view of it
        with lock_of(self.encoder):
            table = self.encoder.get_input_embeddings()
            self.table_size, self.width = table.num_embeddings, table.embedding_dim
        self.vocabulary = vocabulary_of(part.tokenizer, self.table_size, tokens)

    def base_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows of the embedding table, float32 ``[N, C]``, a copy."""
        with lock_of(self.encoder):
            return self.encoder.get_input_embeddings().weight[list(ids)].detach().float()

    @contextmanager
    def extended(self, rows: Tensor | None) -> Iterator[None]:
        """Have the added tokens' rows behind the table."""
        with lock_of(self.encoder):
            if rows is None or not len(rows):
                yield
                return
            table = self.encoder.get_input_embeddings()
            self.encoder.set_input_embeddings(_EmbeddingsWithRows(table, rows.to(table.weight.device)))
            try:
                yield
            finally:
                self.encoder.set_input_embeddings(table)


class TextConditioner:
    """A base model's tokenizers and text encoders, extended by modifier tokens.

    The tokenizers are copies and the encoders views (:mod:`sdk.views`), so the base model never changes. Where a family
    has two encoders, a token has a row in the table of each; its embedding is one after the other.

    Args:
        family: of the base model.
        parts: its text encoders with their tokenizers.
        tokens: modifier tokens to add; where the base model knows one of them by itself, the added one is meant.
        clip_skip: last layers of the encoders that are left out.

    Raises:
        InputError: more of them than an encoder can spare.

    Attributes:
        vocabulary: words and tokens to ids, of the first encoder.
        table_size: rows of its embedding table; the added tokens' ids are those behind it, in order.
        widths: of each encoder's embeddings.
    """

    def __init__(self, family: Family, parts: Sequence[TextPart], tokens: Sequence[str] = (), clip_skip: int = 0):
        family.check_clip_skip(parts, clip_skip)
        self.family, self.clip_skip = family, clip_skip
        self._readers = [_Reader(part, tokens) for part in parts]
        self.vocabulary: Vocabulary = self._readers[0].vocabulary
        self.table_size = self._readers[0].table_size
        self.widths = [reader.width for reader in self._readers]

    def hold_ready(self, dtype: torch.dtype) -> int:
        """Convert the encoders' weights once instead of under every autocast; return the bytes it takes.

        See :func:`sdk.unet.frozen.hold_ready`.

        Args:
            dtype: of the computation, lower than float32.
        """
        own = [reader.encoder for reader in self._readers if not reader.shared and reader.encoder.dtype != dtype]
        return sum(hold_ready(encoder, dtype) for encoder in own)

    def tokenizer(self, index: int = 0) -> Any:
        """Return a copy of a tokenizer with the added tokens, for files."""
        return self._readers[index].vocabulary.tokenizer()

    @property
    def length(self) -> int:
        """Tokens of every prompt, padding included."""
        return self.vocabulary.length

    def tokenize(self, prompts: Sequence[str], index: int = 0) -> Tensor:
        """Return an encoder's ids, int64 ``[B, T]``, padded and cut to the model's length."""
        return self._readers[index].vocabulary.ids(prompts)

    def pieces(self, words: str) -> list[int]:
        """Return the ids of words without start and end token."""
        return self.vocabulary.pieces(words)

    def truncated(self, prompt: str) -> bool:
        """Whether a prompt is longer than the model reads."""
        return self.vocabulary.truncated(prompt)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the model was never shown, see :func:`sdk.rules.prompts.unknown_words`."""
        return self.vocabulary.unknown_words(text)

    def embedding_of(self, word: str) -> Tensor:
        """Return the base embedding of a word, float32 ``[C]``; the mean of its pieces.

        Raises:
            InputError: nothing to read, or an added token.
        """
        found = []
        for reader in self._readers:
            pieces = reader.vocabulary.pieces(word)
            if not pieces or max(pieces) >= reader.table_size:
                raise InputError(f"{word!r} is no word of the base model; give plain words")
            found.append(reader.base_rows(pieces).mean(0))
        return torch.cat(found)

    def base_rows(self, ids: Sequence[int]) -> Tensor:
        """Return rows of the base model's embedding tables, float32 ``[N, C]``, a copy."""
        return torch.cat([reader.base_rows(ids) for reader in self._readers], -1)

    def encode(self, prompts: Sequence[str], rows: Tensor | None = None) -> TextStates:
        """Return the text states of prompts.

        Args:
            prompts: ``B`` of them.
            rows: embeddings ``[S, C]`` of the added tokens, needed if a prompt names any.
        """
        return self.encode_ids(self.all_ids(prompts), rows)

    def all_ids(self, prompts: Sequence[str]) -> list[Tensor]:
        """Return every encoder's ids of prompts, int64 ``[B, T]`` each."""
        return [reader.vocabulary.ids(prompts) for reader in self._readers]

    def encode_ids(self, all_ids: Sequence[Tensor], rows: Tensor | None = None) -> TextStates:
        """Return the text states of prompts given as :meth:`all_ids`; see :meth:`encode`."""
        own = [None] * len(self._readers) if rows is None else rows.split(self.widths, -1)
        found = []
        for index, (reader, part, ids) in enumerate(zip(self._readers, own, all_ids, strict=True)):
            with reader.extended(part):
                states = self.family.read(
                    reader.encoder,
                    ids.to(reader.encoder.device),
                    index=index,
                    end=reader.vocabulary.end,
                    clip_skip=self.clip_skip,
                )
            found.append(TextStates(*states))
        return side_by_side(found)
