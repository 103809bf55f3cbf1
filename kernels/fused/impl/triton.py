"""Kernels for NVIDIA GPUs: a launch a layer forward, one for the loss with its gradient, two a layer backward.

This file says whether they can run, triton_limits.py what they take; importing Triton takes a second, so their
operators (triton_ops.py) and kernels (triton_attention.py, triton_calibration.py) load when they are first used. The
tensors may be on a GPU, or on the CPU if Python was started with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from ..options import CalibrationOptions
from .backend import Backend
from .triton_limits import INTERPRETED, refuses_attention, refuses_loss


def _problem() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "no GPU here; TRITON_INTERPRET=1, set before Python starts, runs the kernels in Triton's slow interpreter"


def attention(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float, detach_first: bool
) -> tuple[Tensor, Tensor]:
    """Attend; columns are ``[B, H, K, N]``, one for each head, because each is computed by a program of its own."""
    from . import triton_ops

    return triton_ops.attention(query, key, value, token_indices, scale, int(detach_first))


def loss(columns: Sequence[Tensor], height: int, width: int, options: CalibrationOptions) -> Tensor:
    """Return the loss ``[B]``; the means over layers and heads and the gradient are part of the same launch."""
    from . import triton_ops

    return triton_ops.calibration(list(columns), height, width, options)


BACKEND = Backend(
    attention=attention,
    loss=loss,
    refuses_attention=refuses_attention,
    refuses_loss=refuses_loss,
    chosen_on=("cuda",),
    problem=_problem(),
    first_derivatives_alone=True,
)
