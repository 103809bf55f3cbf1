"""What a step shows: rows of the reference pictures and of priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

_TENSORS = ("latents", "noise", "timesteps", "masks", "concept_masks", "sizes")


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; CUDA copies it while Python goes on."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes:
        latents: clean, float32 ``[B, C, h, w]``.
        noise: ``[B, C, h, w]``.
        timesteps: int64 ``[B]``.
        captions: one a row.
        masks: ``[B, 1, h, w]``, where the denoising loss counts.
        named: per row, the indices of the concepts that a caption of the reference names; ``()`` for priors.
        concept_masks: the concepts' masks, moved as the picture was, zero in priors; ``None`` if no row asked for them.
        first: place of the first row in the step, where the batch is a part of one.
        of_step: ``named`` of all rows of the step; empty: these are all.
        sizes: of each row ``[B, 6]``, see :meth:`sdk.families.Family.unet_arguments`.
        step: whose rows these are, counted from 0.
        inputs: what a method made of captions and names for steps that are recorded, one row each; else empty.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[str]
    masks: Tensor
    named: list[tuple[int, ...]]
    concept_masks: Tensor | None = None
    sizes: Tensor | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    first: int = 0
    of_step: Sequence[tuple[int, ...]] = ()
    step: int = 0

    def __post_init__(self) -> None:
        if not self.of_step:
            object.__setattr__(self, "of_step", tuple(self.named))

    @property
    def rows(self) -> int:
        """Of the whole step."""
        return len(self.of_step)

    @property
    def share(self) -> float:
        """What these rows are of the whole step, for terms of a loss that belong to no row."""
        return len(self.named) / self.rows

    def parts(self, rows: int) -> list[Batch]:
        """Return the rows in parts of at most so many; 0: all at once."""
        if not 0 < rows < len(self.named):
            return [self]
        found = []
        for first in range(0, len(self.named), rows):
            own = slice(first, first + rows)
            tensors = {name: getattr(self, name)[own] for name in ("latents", "noise", "timesteps", "masks")}
            further: dict[str, Any] = {name: getattr(self, name) for name in ("concept_masks", "sizes")}
            further = {name: None if value is None else value[own] for name, value in further.items()}
            further["inputs"] = {name: value[own] for name, value in self.inputs.items()}
            found.append(
                replace(self, **tensors, **further, captions=self.captions[own], named=self.named[own], first=first)
            )
        return found

    def with_inputs(self, inputs: Mapping[str, Tensor]) -> Batch:
        """Return the batch with inputs of a method, moved to where its rows are."""
        return replace(self, inputs={name: moved(value, self.latents.device) for name, value in inputs.items()})

    def copied(self) -> Batch:
        """Return a batch with tensors of its own."""
        tensors: dict[str, Any] = {name: value.clone() for name, value in self._tensors().items()}
        return replace(self, **tensors, inputs={name: value.clone() for name, value in self.inputs.items()})

    def take(self, other: Batch) -> None:
        """Copy the numbers of another batch of the same shapes; captions and names stay what they are."""
        for name, value in self._tensors().items():
            value.copy_(getattr(other, name), non_blocking=True)
        for name, value in self.inputs.items():
            value.copy_(other.inputs[name], non_blocking=True)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name in _TENSORS if (value := getattr(self, name)) is not None}

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device; CUDA copies them while Python goes on."""
        tensors: dict[str, Any] = {name: moved(value, device) for name, value in self._tensors().items()}
        return replace(self, **tensors)


@dataclass(frozen=True)
class View:
    """What a row of the reference shows.

    Attributes:
        named: indices of the concepts in its caption, in the order of the fit.
        window: whether it is cut out around the one that is named, or the whole picture.
        with_masks: whether the batch carries the concepts' masks.
        mixed: whether the named ones are cut out and put together anew.
        noisy: whether there is to be noise around the named ones, so that it must be known where they are.
    """

    named: tuple[int, ...]
    window: bool = False
    with_masks: bool = False
    mixed: bool = False
    noisy: bool = False

    @property
    def needs_masks(self) -> bool:
        """Whether it cannot be made without knowing where the concepts are."""
        return self.window or self.with_masks or self.mixed or self.noisy
