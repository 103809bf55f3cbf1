"""Kernels with a gradient of their own have that one derivative; any further one is refused instead of being wrong.

PyTorch would go on silently: a second derivative would lack the terms of the kernel, a forward-mode one be zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

ADVICE = "backend='reference' computes them"


def transformed(*tensors: Tensor) -> str | None:
    """Return why a backend with a gradient of its own cannot take tensors: ``torch.func`` or forward mode has them."""
    if torch.compiler.is_compiling():  # what is traced is a plain forward pass and its gradient
        return None
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # there is no public question
    if any(wrapped(tensor) for tensor in tensors):
        return f"does not take part in torch.func's transformations; {ADVICE}"
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors if _in_forward_mode()):
        return f"has no derivatives in forward mode; {ADVICE}"
    return None


def first_alone(gradient: Tensor, name: str, *inputs: Tensor) -> Tensor:
    """Return a gradient that a kernel computed; to differentiate it again raises :class:`RuntimeError`, as torch does.

    Args:
        gradient: inside a backward function.
        name: of the backend.
        inputs: what the gradient depends on.
    """
    return _FirstAlone.apply(gradient, name, *inputs) if torch.is_grad_enabled() else gradient


def _in_forward_mode() -> bool:
    return forward_ad._current_level >= 0


class _FirstAlone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, name: str, *inputs: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(f"backend {ctx.name!r} has first derivatives alone; {ADVICE}")
