"""The compiled CPU library of csrc/ as torch operators: fake kernels, autograd and the autocast rule.

The operators' schemas are defined here; bindings/torch_ops.cpp adds the implementations when it is imported. Without
a compiled library everything here still imports, and :func:`unavailable` says why the operators cannot be called.

Under autocast, attention runs in the autocast type (as stock attention does) and the loss in float32.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

_library = torch.library.Library("personalizer", "FRAGMENT")
_library.define("cpp_attention(Tensor query, Tensor key, Tensor value, Tensor tokens, float scale) -> (Tensor, Tensor)")
_library.define(
    "cpp_attention_backward(Tensor grad_out, Tensor grad_maps, Tensor query, Tensor key, Tensor value, Tensor tokens, "
    "float scale) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "cpp_calibration(Tensor maps, bool normalize, float sigma, int suppress, float smooth, float bind, float separate) "
    "-> (Tensor, Tensor)"
)
_ops = torch.ops.personalizer
TYPES = (torch.float32, torch.bfloat16)


_problem: str | None = None
try:
    import_module("sdk.kernels._C")  # registers the implementations
except ImportError as error:
    _problem = f"the compiled library could not be loaded ({error}); install where a C++ compiler is found to build it"


def unavailable() -> str | None:
    """Return why the compiled library cannot be used, or ``None`` if it can."""
    return _problem


def _rows_like(tensor: Tensor) -> Tensor:
    """Empty ``[B, H, rows, D]`` in memory order ``[B, rows, H, D]``, which is what the library returns."""
    batch, heads, rows, width = tensor.shape
    return tensor.new_empty(batch, rows, heads, width).transpose(1, 2)


@torch.library.register_fake("personalizer::cpp_attention")
def _(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    maps = query.new_empty(query.shape[0], tokens.shape[1], query.shape[2], dtype=torch.float32)
    return _rows_like(query), maps


@torch.library.register_fake("personalizer::cpp_attention_backward")
def _(grad_out, grad_maps, query: Tensor, key: Tensor, value: Tensor, tokens, scale) -> tuple[Tensor, Tensor, Tensor]:
    return _rows_like(query), _rows_like(key), _rows_like(value)


@torch.library.register_fake("personalizer::cpp_calibration")
def _(maps: Tensor, normalize, sigma, suppress, smooth, bind, separate) -> tuple[Tensor, Tensor]:
    return maps.new_empty(maps.shape[0]), maps.new_empty(maps.shape)


def _keep_attention(ctx, inputs, output) -> None:
    query, key, value, tokens, scale = inputs
    ctx.save_for_backward(query, key, value, tokens)
    ctx.scale = scale


def _attention_backward(ctx, grad_out: Tensor, grad_maps: Tensor):
    query, key, value, tokens = ctx.saved_tensors
    grads = _ops.cpp_attention_backward(grad_out.to(query.dtype), grad_maps, query, key, value, tokens, ctx.scale)
    return (*grads, None, None)


def _keep_calibration(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])


def _calibration_backward(ctx, grad_loss: Tensor, grad_of_grad: Tensor):
    (grad,) = ctx.saved_tensors
    return (grad * grad_loss[:, None, None, None], None, None, None, None, None, None)


torch.library.register_autograd(
    "personalizer::cpp_attention", _attention_backward, setup_context=_keep_attention, lib=_library
)
torch.library.register_autograd(
    "personalizer::cpp_calibration", _calibration_backward, setup_context=_keep_calibration, lib=_library
)
torch.library.register_autocast("personalizer::cpp_attention", "cpu", torch.bfloat16, lib=_library)
torch.library.register_autocast("personalizer::cpp_calibration", "cpu", torch.float32, lib=_library)


def attention(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend, see :func:`sdk.kernels.attention_with_maps`; float32 or bfloat16 tensors on the CPU."""
    if query.dtype not in TYPES or query.device.type != "cpu":
        raise ValueError(
            f"backend 'cpp' takes float32 or bfloat16 tensors on the CPU, query is {query.dtype} on {query.device}"
        )
    return _ops.cpp_attention(query, key, value, tokens, scale)


def calibration(
    maps: Tensor, normalize: bool, sigma: float, suppress: int, smooth: float, bind: float, separate: float
) -> Tensor:
    """Return the loss of each row, see :func:`sdk.kernels.calibration_loss`; float32 maps on the CPU."""
    return _ops.cpp_calibration(maps, normalize, sigma, suppress, smooth, bind, separate)[0]
