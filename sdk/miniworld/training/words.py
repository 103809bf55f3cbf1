"""Where the text states come from while a UNet trains: an encoder that trains along, or one that is finished."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..captions import Caption, write_caption
from ..scene import Vocabulary, sample_scene
from ..tokenizer import MAX_LENGTH
from .common import AveragedWeights, trapezoid_schedule
from .losses import Reading, confusion_loss, grounding_loss
from .models import build_text_encoder

log = logging.getLogger(__name__)
CONFUSION_WEIGHT = 0.5
READING_WEIGHT = 0.05
GROUNDING_UNTIL = 0.5  # share of the training after which grounding has faded away


class Texts:
    """Captions as tensors: token ids ``[B, T]`` and owners ``[B, T]``, -1 for words without an object."""

    def __init__(self, tokenizer: CLIPTokenizer, captions: list[Caption]) -> None:
        self.captions = captions
        texts = [caption.text for caption in captions]
        self.tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        self.owners = torch.tensor([_in_row(caption.owners, -1) for caption in captions])

    def to(self, device: torch.device) -> Texts:
        self.tokens, self.owners = self.tokens.to(device), self.owners.to(device)
        return self

    def labels(self) -> Tensor:
        """Return what was said up to each word, as :meth:`Reading.labels` has it, int64 ``[B, 4, T]``."""
        rows = [Reading.labels(caption.text.split(), caption.owners) for caption in self.captions]
        padded = [[_in_row(values, -100) for values in row] for row in rows]
        return torch.tensor(padded, device=self.tokens.device)


def _in_row(values: Sequence[int], nothing: int) -> list[int]:
    """Values of words in a row of tokens: every word is one token, after the start."""
    return [nothing, *values, *[nothing] * (MAX_LENGTH - 1 - len(values))]


class _Words:
    """What holds words to their objects."""

    grounding: float
    steps: int

    def strength(self, step: int) -> float:
        """The weight of the grounding term, for which attention maps are needed; it falls in a line to 0."""
        return self.grounding * max(0.0, 1 - step / (GROUNDING_UNTIL * self.steps))

    def ground(self, maps: Tensor, masks: Tensor) -> Tensor:
        """How far words look past their objects."""
        return grounding_loss(maps, masks)


class GroundedWords(_Words):
    """An encoder that trains along, after half a minute on captions alone; its words are held to their objects.

    Args:
        tokenizer: of the world.
        device: where it trains.
        grounding: weight of the grounding term at the start; it falls to 0 in a line.
        steps: of the whole training.
    """

    def __init__(self, tokenizer: CLIPTokenizer, device: torch.device, grounding: float, steps: int) -> None:
        self.tokenizer, self.grounding, self.steps = tokenizer, grounding, steps
        self.encoder = build_text_encoder(tokenizer).to(device).train()
        self.reading = Reading(self.encoder.config.hidden_size).to(device)

    def start(self) -> None:
        """Once, before the first step."""
        teach_reading(self.tokenizer, self.encoder, self.reading)

    def average(self) -> AveragedWeights | None:
        """The encoder's averaged weights, which are those of the finished model."""
        return AveragedWeights(self.encoder, 0.999)

    def parts(self) -> dict[str, nn.Module]:
        """What trains along, by its name in checkpoints."""
        return {"text_encoder": self.encoder, "reading": self.reading}

    def states(self, tokens: Tensor) -> Tensor:
        """Text states ``[B, T, C]`` of tokens ``[B, T]``."""
        return self.encoder(tokens)[0]

    def losses(self, states: Tensor, texts: Texts) -> tuple[Tensor, dict[str, Tensor]]:
        """What is asked of the text states beside denoising, weighted; and what to report."""
        read = self.reading(states, texts.labels())
        confusion = CONFUSION_WEIGHT * confusion_loss(states, texts.owners)
        return READING_WEIGHT * read + confusion, {"reading": read}


class FinishedWords(_Words):
    """An encoder that was trained before, by contrast with pictures, and stays as it is.

    Args:
        folder: of the encoder, from :mod:`sdk.miniworld.training.contrastive`.
        device: where it computes.
        grounding: weight of the grounding term at the start, which falls to 0 in a line; at 0 nothing but denoising
            trains.
        steps: of the whole training.
    """

    def __init__(self, folder: Path, device: torch.device, grounding: float, steps: int) -> None:
        self.grounding, self.steps = grounding, steps
        self.encoder = CLIPTextModel.from_pretrained(folder).to(device).eval().requires_grad_(False)

    def start(self) -> None:
        """Nothing is to be taught."""

    def average(self) -> AveragedWeights | None:
        """Nothing changes, so there is nothing to average."""
        return None

    def parts(self) -> dict[str, nn.Module]:
        """Nothing trains along."""
        return {}

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Text states ``[B, T, C]`` of tokens ``[B, T]``."""
        return self.encoder(tokens)[0]

    def losses(self, states: Tensor, texts: Texts) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing is asked beside denoising."""
        return states.new_zeros(()), {}


def teach_reading(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, reading: Reading, *, steps: int = 500, batch_size: int = 128
) -> None:
    """Train the text encoder on captions alone to know what was said about which object."""
    rng = random.Random("reading")
    vocabulary = Vocabulary()
    parameters = [*encoder.parameters(), *reading.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    for step in range(steps):
        captions = [write_caption(sample_scene(rng, vocabulary), rng) for _ in range(batch_size)]
        texts = Texts(tokenizer, captions).to(encoder.device)
        states = encoder(texts.tokens)[0]
        loss = reading(states, texts.labels()) + CONFUSION_WEIGHT * confusion_loss(states, texts.owners)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * trapezoid_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 100 == 0:
            log.info("text step %d loss %.4f", step + 1, loss.item())
