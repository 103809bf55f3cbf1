"""Prompts to text states, with learned tokens that live beside the base model instead of in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import InputError
from ..views import lock_of, private_view
from ..vocabulary import vocabulary_of


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


class TextConditioner:
    """A base model's tokenizer and text encoder, extended by modifier tokens.

    The tokenizer is a copy and the encoder a view (:mod:`sdk.views`), so the base model never changes.

    Args:
        tokenizer: the base tokenizer.
        text_encoder: the base text encoder.
        tokens: modifier tokens to add; where the base model knows one of them by itself, the added one is meant.

    Attributes:
        text_encoder: the view.
        vocabulary: words and tokens to ids.
        table_size: rows of the embedding table; the added tokens' ids are those behind it, in order.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, tokens: Sequence[str] = ()):
        self.text_encoder = private_view(text_encoder)
        with lock_of(self.text_encoder):
            self.table_size = self.text_encoder.get_input_embeddings().num_embeddings
        self.vocabulary = vocabulary_of(tokenizer, self.table_size, tokens)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """A copy of the tokenizer with the added tokens, for files."""
        return self.vocabulary.tokenizer()

    @property
    def length(self) -> int:
        """Tokens of every prompt, padding included."""
        return self.vocabulary.length

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, int64 ``[B, T]``, padded and cut to the model's length."""
        return self.vocabulary.ids(prompts)

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
        pieces = self.pieces(word)
        if not pieces or max(pieces) >= self.table_size:
            raise InputError(f"{word!r} is no word of the base model; give plain words")
        return self.base_rows(pieces).mean(0)

    def base_rows(self, ids: Sequence[int]) -> Tensor:
        """Return rows of the base model's embedding table, float32 ``[N, C]``, a copy."""
        with lock_of(self.text_encoder):
            return self.text_encoder.get_input_embeddings().weight[list(ids)].detach().float()

    def encode(self, token_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the last hidden states ``[B, T, C]``.

        Args:
            token_ids: from :meth:`tokenize`.
            rows: embeddings ``[S, C]`` of the added tokens, needed if ``token_ids`` contain any.
        """
        with lock_of(self.text_encoder), self._extended(rows):
            return self.text_encoder(token_ids.to(self.text_encoder.device))[0]

    @contextmanager
    def _extended(self, rows: Tensor | None) -> Iterator[None]:
        if rows is None or not len(rows):
            yield
            return
        table = self.text_encoder.get_input_embeddings()
        self.text_encoder.set_input_embeddings(_EmbeddingsWithRows(table, rows.to(table.weight.device)))
        try:
            yield
        finally:
            self.text_encoder.set_input_embeddings(table)
