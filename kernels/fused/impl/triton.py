"""Kernels for NVIDIA GPUs: a launch a layer forward, one for the loss with its gradient, two a layer backward.

This file says what they take and whether they can run; importing Triton takes a second, so their operators
(triton_ops.py) and kernels (triton_attention.py, triton_calibration.py) load when they are first used. The tensors may
be on a GPU, or on the CPU if Python was started with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..options import CalibrationOptions
from .backend import Backend

MAX_KEYS, MAX_TRACKED = 256, 16  # all keys of a row are on chip at once; tracked tokens are masked sums over them
MIN_SIDE, MAX_SIDE = 2, 64  # of maps, in cells: a whole map is on chip at once
TYPES = (torch.float32, torch.float16, torch.bfloat16)
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _problem() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    if _INTERPRETED or torch.cuda.is_available():
        return None
    return "no GPU here; TRITON_INTERPRET=1, set before Python starts, runs the kernels in Triton's slow interpreter"


def refuses_attention(query: Tensor, keys: int, tracked: int) -> str | None:
    """Take the low floating-point types, up to 256 keys and 16 tracked tokens."""
    if keys > MAX_KEYS:
        return f"takes at most {MAX_KEYS} keys, key has {keys}"
    if tracked > MAX_TRACKED:
        return f"tracks at most {MAX_TRACKED} tokens, token_indices has {tracked}"
    if query.dtype not in TYPES:
        return f"takes float32, float16 or bfloat16, query is {query.dtype}"
    if not query.is_cuda and not _INTERPRETED:
        return f"takes tensors on a GPU, query is on {query.device}"
    if not query.is_cuda and query.dtype == torch.bfloat16:
        return "computes bfloat16 products wrongly in its interpreter: use float32 or float16 on the CPU"
    return None


def refuses_loss(columns: Sequence[Tensor], height: int, width: int) -> str | None:
    """Take float32 columns of 2 to 64 cells a side, and layers with equally many heads."""
    first = columns[0]
    if first.dtype != torch.float32:
        return f"takes float32 maps, these are {first.dtype}"
    if not first.is_cuda and not _INTERPRETED:
        return f"takes maps on a GPU, these are on {first.device}"
    if max(height, width) > MAX_SIDE or min(height, width) < MIN_SIDE:
        return f"takes maps of {MIN_SIDE} to {MAX_SIDE} cells a side, got {height} x {width}"
    if any(c.shape != first.shape for c in columns):
        return f"takes layers with equally many heads, got {[c.shape[1] for c in columns]}"
    return None


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
)
