"""Attention over many keys in bfloat16 on a CPU: torch's own forward pass, and the compiled library's gradient.

Torch's gradient takes several times as long as this one and is less exact (``python -m benchmarks.long_attention``). It
needs a processor with products of bfloat16 pairs (AMX, AVX512-BF16); elsewhere, and while torch.compile traces, stock
attention is what runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdk.bindings import capi

from ..ops import with_dense_rows
from . import cpp
from .derivatives import first_alone, transformed

FEWEST = 512  # keys; below, stock attention is fast enough
_UNIT = 32  # what queries and keys must be multiples of
_ON = ("amx", "avx512_bf16")  # instruction sets
_forward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the gradient of such an attention is computed here, and is wanted."""
    if query.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    three = (query, key, value)
    return (
        any(each.requires_grad for each in three)
        and all(each.dtype == torch.bfloat16 and each.ndim == 4 and each.device.type == "cpu" for each in three)
        and query.shape[2] > 0
        and key.shape[2] >= FEWEST
        and not (query.shape[2] % _UNIT or key.shape[2] % _UNIT)
        and key.shape == value.shape == (*query.shape[:2], key.shape[2], query.shape[3])
        and cpp.BACKEND.problem is None
        and _forward is not None
        and capi.instruction_set() in _ON
        and transformed(*three) is None
    )


class LongAttention(torch.autograd.Function):
    """``[B, H, N, D]`` on ``[B, H, T, D]``; see :func:`takes`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = with_dense_rows(query), with_dense_rows(key), with_dense_rows(value)
        assert _forward is not None
        out, logsums = _forward(query, key, value, 0.0, False, scale=scale)
        ctx.save_for_backward(query, key, value, out, logsums.contiguous())
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsums = ctx.saved_tensors
        with torch.no_grad():
            grads = cpp.long_gradients(grad_out.to(query.dtype), query, key, value, out, logsums, ctx.scale)
        return (*(first_alone(grad, "cpp", grad_out, query, key, value) for grad in grads), None)
