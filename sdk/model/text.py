"""Prompts to text states, with learned tokens that live beside the base model instead of in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer


class _EmbeddingsWithRows(nn.Module):
    """A frozen embedding table with extra rows appended; only the extra rows get gradients."""

    def __init__(self, table: nn.Embedding, rows: Tensor):
        super().__init__()
        self.table = table
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        size = self.table.num_embeddings
        extra = ids >= size
        known = self.table(ids.masked_fill(extra, 0)).detach()
        learned = self.rows.to(known.dtype)[(ids - size).clamp(min=0)]
        return torch.where(extra[..., None], learned, known)


class TextConditioner:
    """A base model's tokenizer and text encoder, extended by modifier tokens.

    The tokenizer is copied and the encoder's table is exchanged only during :meth:`encode`, so the base model
    never changes.

    Args:
        tokenizer: the base tokenizer.
        text_encoder: the base text encoder.
        tokens: modifier tokens to add; an existing word is refused by the caller, not here.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, tokens: Sequence[str] = ()):
        self.text_encoder = text_encoder
        self.tokenizer = copy.deepcopy(tokenizer)
        self.table_size = text_encoder.get_input_embeddings().num_embeddings
        if len(self.tokenizer) < self.table_size:
            # A table larger than the vocabulary: fill up, so that new tokens land behind the table.
            self.tokenizer.add_tokens([f"<unused{i}>" for i in range(len(self.tokenizer), self.table_size)])
        if tokens:
            self.tokenizer.add_tokens(list(tokens), special_tokens=True)

    @property
    def length(self) -> int:
        """Tokens of every prompt, padding included."""
        return int(self.tokenizer.model_max_length)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, int64 ``[B, T]``, padded and cut to the model's length."""
        return self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids

    def pieces(self, words: str) -> list[int]:
        """Return the ids of words without start and end token."""
        return self.tokenizer(words, add_special_tokens=False).input_ids

    def truncated(self, prompt: str) -> bool:
        """Whether a prompt is longer than the model reads."""
        return len(self.tokenizer(prompt).input_ids) > self.tokenizer.model_max_length

    def embedding_of(self, word: str) -> Tensor:
        """Return the base embedding of a word, float32 ``[C]``; the mean of its pieces."""
        weight = self.text_encoder.get_input_embeddings().weight
        return weight[self.pieces(word)].detach().float().mean(0)

    def encode(self, token_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the last hidden states ``[B, T, C]``.

        Args:
            token_ids: from :meth:`tokenize`.
            rows: embeddings ``[S, C]`` of the added tokens, needed if ``token_ids`` contain any.
        """
        ids = token_ids.to(self.text_encoder.device)
        if rows is None:
            return self.text_encoder(ids)[0]
        with self._extended(rows):
            return self.text_encoder(ids)[0]

    @contextmanager
    def _extended(self, rows: Tensor) -> Iterator[None]:
        table = self.text_encoder.get_input_embeddings()
        self.text_encoder.set_input_embeddings(_EmbeddingsWithRows(table, rows.to(table.weight.device)))
        try:
            yield
        finally:
            self.text_encoder.set_input_embeddings(table)
