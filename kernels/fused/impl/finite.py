"""Ways to compute attention that are right for finite numbers only, beside one that is right for all.

A fast way may multiply by zero what should not count, or skip what it takes for nothing; a NaN or an infinity shows it.
Values have to be looked at for that, so a GPU is waited for. What ``torch.compile`` or a CUDA graph records cannot
depend on values: there the fast way is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# From query, key, value, token_indices and scale to out and columns; see Backend.attention.
Way = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def all_finite(*tensors: Tensor) -> bool:
    """Whether nothing is NaN or infinite, as far as values may be looked at."""
    if torch.compiler.is_compiling() or (tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()):
        return True
    ends = [end * 0 for x in tensors if x.numel() for end in x.detach().aminmax()]  # 0, or NaN
    return float(sum(ends)) == 0  # read once


class _FiniteGradients(torch.autograd.Function):
    """Passes out and columns on. Gradients that are not finite go to the inputs in the exact way instead."""

    @staticmethod
    def forward(exact: Way, query, key, value, token_indices, scale, out, columns):
        return out.view_as(out), columns.view_as(columns)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.exact, query, key, value, token_indices, ctx.scale, _, _ = inputs
        ctx.save_for_backward(query, key, value, token_indices)

    @staticmethod
    def backward(ctx, grad_out, grad_columns):
        if all_finite(grad_out, grad_columns):
            return None, None, None, None, None, None, grad_out, grad_columns
        *inputs, token_indices = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            results = ctx.exact(*leaves, token_indices, ctx.scale)
        grads = torch.autograd.grad(results, leaves, (grad_out, grad_columns))
        return None, *grads, None, None, torch.zeros_like(grad_out), torch.zeros_like(grad_columns)


def where_finite(
    fast: Way, exact: Way, query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend in the fast way where inputs are finite, and in the exact way where not; the same of the gradients.

    Args:
        fast: right for finite numbers.
        exact: right for all.
        query: see :class:`Backend`, as for the rest.
        key: likewise.
        value: likewise.
        token_indices: likewise.
        scale: likewise.
    """
    if not all_finite(query, key, value):
        return exact(query, key, value, token_indices, scale)
    out, columns = fast(query, key, value, token_indices, scale)
    if out.requires_grad and not torch.compiler.is_compiling():
        return _FiniteGradients.apply(exact, query, key, value, token_indices, scale, out, columns)
    return out, columns
