"""What a backend has to offer. Each implementation's file defines one of these as ``BACKEND``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..options import CalibrationOptions

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
Loss = Callable[[Sequence[Tensor], int, int, CalibrationOptions], Tensor]


def takes_all_attention(query: Tensor, keys: int, tracked: int) -> str | None:
    """Refuse nothing; see :attr:`Backend.refuses_attention`."""
    return None


def takes_all_losses(columns: Sequence[Tensor], height: int, width: int) -> str | None:
    """Refuse nothing; see :attr:`Backend.refuses_loss`."""
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of attention with maps and of the calibration loss. Both are differentiable.

    Arguments have been checked before they get here (api.py), but for what only this backend does not take.

    Attributes:
        attention: from query ``[B, H, N, D]``, key and value ``[B, H, T, D]``, token_indices int64 ``[B, K]`` (-1
            tracks nothing), the factor on the logits, and whether the first key passes no gradient to key and value;
            returns out ``[B, H, N, D]`` and columns ``[B, G, K, N]``, float32 or float64, whose mean over G is the map.
        loss: from the columns ``[B, G, 2S, height * width]`` of each layer, height, width and the options; returns the
            loss of each row, ``[B]``.
        refuses_attention: from query, number of keys and number of tracked tokens; returns ``None``, or what this
            backend takes instead, worded to follow the backend's name.
        refuses_loss: the same from the columns, height and width.
        chosen_on: device types on which it may be chosen without being asked for; empty: only by name.
        problem: why it cannot be used on this machine; ``None`` if it can.
        first_derivatives_alone: whether its gradient is a kernel's, which nothing can differentiate again.
    """

    attention: Attention
    loss: Loss
    refuses_attention: Callable[[Tensor, int, int], str | None] = takes_all_attention
    refuses_loss: Callable[[Sequence[Tensor], int, int], str | None] = takes_all_losses
    chosen_on: tuple[str, ...] = ()
    problem: str | None = None
    first_derivatives_alone: bool = False
