"""What a step shows: rows of the reference pictures and of priors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[str]
    masks: Tensor
    named: list[tuple[int, ...]]
    concept_masks: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("latents", "noise", "timesteps", "masks")}
        return replace(
            self, **moved, concept_masks=None if self.concept_masks is None else self.concept_masks.to(device)
        )


@dataclass(frozen=True)
class View:
    """What a row of the reference shows.

    Attributes:
        named: indices of the concepts in its caption, in the order of the fit.
        window: whether it is cut out around the one that is named, or the whole picture.
        with_masks: whether the batch carries the concepts' masks.
    """

    named: tuple[int, ...]
    window: bool = False
    with_masks: bool = False

    @property
    def needs_masks(self) -> bool:
        """Whether it cannot be made without knowing where the concepts are."""
        return self.window or self.with_masks
