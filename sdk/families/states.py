"""What a base model's text encoders make of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextStates:
    """Prompts as a UNet takes them.

    Attributes:
        states: of every token, ``[B, T, C]``.
        pooled: of every prompt, ``[B, P]``; ``None`` for families without.
    """

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> TextStates:
        """Return some rows; ``rows`` keeps the dimension (a slice, a list, a tensor of indices)."""
        return TextStates(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, *arguments: Any) -> TextStates:
        """Return them on a device, in a type; as :meth:`torch.Tensor.to`."""
        return TextStates(self.states.to(*arguments), None if self.pooled is None else self.pooled.to(*arguments))

    def split(self, size: int) -> list[TextStates]:
        """Return parts of at most so many rows, in order."""
        return [self[first : first + size] for first in range(0, len(self), size)]

    def finite(self) -> Tensor:
        """Return whether all values are finite, a boolean of no dimension on their device."""
        found = self.states.isfinite().all()
        return found if self.pooled is None else found & self.pooled.isfinite().all()


def joined(parts: Sequence[TextStates]) -> TextStates:
    """Return rows one after another."""
    return _by(torch.cat, parts, 0)


def side_by_side(parts: Sequence[TextStates]) -> TextStates:
    """Return what several encoders make of the same prompts: their states joined, the pooled ones of the last."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TextStates(torch.cat([part.states for part in parts], -1), pooled[-1] if pooled else None)


def _by(join: Any, parts: Sequence[TextStates], dimension: int) -> TextStates:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TextStates(join([part.states for part in parts], dimension), join(pooled, dimension) if pooled else None)
