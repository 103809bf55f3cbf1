"""What the Triton kernels take: asked before a backend is chosen, and by the operators. Does not import Triton."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_KEYS, MAX_TRACKED = 256, 16  # all keys of a row are on chip at once; tracked tokens are masked sums over them
MIN_SIDE, MAX_SIDE = 2, 64  # of maps, in cells: a whole map is on chip at once
TYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def refuses_attention(query: Tensor, keys: int, tracked: int) -> str | None:
    """Take the low floating-point types, up to 256 keys and 16 tracked tokens."""
    if keys > MAX_KEYS:
        return f"takes at most {MAX_KEYS} keys, key has {keys}"
    if tracked > MAX_TRACKED:
        return f"tracks at most {MAX_TRACKED} tokens, token_indices has {tracked}"
    if query.dtype not in TYPES:
        return f"takes float32, float16 or bfloat16, query is {query.dtype}"
    if not query.is_cuda and not INTERPRETED:
        return f"takes tensors on a GPU, query is on {query.device}"
    if not query.is_cuda and query.dtype == torch.bfloat16:
        return "computes bfloat16 products wrongly in its interpreter: use float32 or float16 on the CPU"
    return None


def refuses_loss(columns: Sequence[Tensor], height: int, width: int) -> str | None:
    """Take float32 columns of 2 to 64 cells a side, and layers with equally many heads."""
    first = columns[0]
    if first.dtype != torch.float32:
        return f"takes float32 maps, these are {first.dtype}"
    if not first.is_cuda and not INTERPRETED:
        return f"takes maps on a GPU, these are on {first.device}"
    if max(height, width) > MAX_SIDE or min(height, width) < MIN_SIDE:
        return f"takes maps of {MIN_SIDE} to {MAX_SIDE} cells a side, got {height} x {width}"
    if any(c.shape != first.shape for c in columns):
        return f"takes layers with equally many heads, got {[c.shape[1] for c in columns]}"
    return None
