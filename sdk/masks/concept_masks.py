"""The masks of a fit: one object that the method, the rows and the checkpoint share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .segmentation import at_side


class ConceptMasks:
    """Where the concepts are in each reference picture.

    Args:
        masks: of each reference picture, float ``[S, r, r]``, or ``[S + 1, r, r]`` with the background last.
        concepts: their number S.
        side: of the latents; finer masks are reduced to it.

    Attributes:
        version: rises with every change, so that whoever made something of the masks knows when it is out of date.
    """

    def __init__(self, masks: Sequence[Tensor], concepts: int, side: int):
        self.version = 0
        self._masks: list[Tensor] = []
        for each in masks:
            sized = each if each.shape[-1] <= side else at_side(each, side)
            rest = 1 - sized.amax(0, keepdim=True)
            self._masks.append(sized if len(sized) > concepts else torch.cat([sized, rest]))

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._masks)

    def __getitem__(self, picture: int) -> Tensor:
        """Return float ``[S + 1, r, r]`` of 0 and 1 of a picture, the background last."""
        return self._masks[picture]

    def __setitem__(self, picture: int, masks: Tensor) -> None:
        self._masks[picture] = masks
        self.version += 1
