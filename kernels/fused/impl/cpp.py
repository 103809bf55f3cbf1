"""The compiled CPU library (csrc/) as torch operators: a block of queries at a time, in the cache; backward recomputes.

The library knows nothing of torch. It is called through its C header (:mod:`sdk.bindings.capi`), works on the tensors'
own memory and on torch's own threads, and is registered here for CPU tensors: schemas, fake kernels, autograd and the
autocast rule. Without the library everything here still imports, and ``BACKEND.problem`` says why it cannot be called.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from sdk.bindings import capi

from ..checks import check_attention, check_blur, check_gradient, check_maps, check_scale
from ..ops import (
    AUTOCAST_TYPES,
    NO_GRADIENTS,
    OPTIONS_SCHEMA,
    checked_options,
    loss_gradient,
    option_values,
    rows_like,
    with_dense_rows,
)
from ..options import CalibrationOptions
from .backend import Backend
from .derivatives import first_alone
from .reference import mean_maps, with_first_detached

_TYPES = {torch.float32: capi.FLOAT32, torch.bfloat16: capi.BFLOAT16}

_registry = torch.library.Library("personalizer", "FRAGMENT")
_registry.define(
    "cpp_attention(Tensor query, Tensor key, Tensor value, Tensor tokens, float scale) -> (Tensor, Tensor)"
)
_registry.define(
    "cpp_attention_backward(Tensor grad_out, Tensor grad_maps, Tensor query, Tensor key, Tensor value, Tensor tokens, "
    "float scale) -> (Tensor, Tensor, Tensor)"
)
_registry.define(f"cpp_calibration(Tensor maps, {OPTIONS_SCHEMA}) -> (Tensor, Tensor)")
_ops = torch.ops.personalizer


def torch_threads() -> capi.Runner:
    """Return torch's own threads: ``torch.set_num_threads`` counts, and no second pool competes for the processors.

    ``torch_parallel_for`` belongs to LibTorch's stable C interface (torch 2.10 and later).
    """
    loop = ctypes.CDLL(torch._C.__file__).torch_parallel_for
    return capi.library().pk_threads_of(ctypes.cast(loop, ctypes.c_void_p))


_problem: str | None = None
try:
    _library = capi.library()
    _threads = torch_threads()
except (ImportError, AttributeError) as error:
    _problem = str(error)


def _leave_torchs_threads() -> None:
    """Compute on the calling thread: torch's others did not survive a fork, however many it is told to use."""
    global _threads
    _threads = _library.pk_threads(1)


if _problem is None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_torchs_threads)


def _array(tensor: Tensor) -> capi.Array:
    batch, head, row, _ = tensor.stride()
    return capi.Array(tensor.data_ptr(), batch, head, row)


def _described(query: Tensor, key: Tensor, tokens: Tensor, scale: float) -> capi.Attention:
    batch, heads, queries, width = query.shape
    return capi.Attention(
        batch, heads, queries, key.shape[2], width, tokens.shape[1], tokens.data_ptr(), scale, _TYPES[query.dtype]
    )


def _check_forward(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> None:
    """Check what the library would take on trust; the tokens' values it checks itself."""
    check_attention(query, key, value, tokens)
    check_scale(scale)
    if query.dtype not in _TYPES:
        raise TypeError(f"personalizer::cpp_attention takes float32 or bfloat16 tensors, query is {query.dtype}")


def _check_backward(
    grad_out: Tensor, grad_maps: Tensor, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float
) -> None:
    _check_forward(query, key, value, tokens, scale)
    shape, device = query.shape, query.device
    check_gradient("grad_out", grad_out, shape, query.dtype, device)
    check_gradient("grad_maps", grad_maps, (shape[0], tokens.shape[1], shape[2]), torch.float32, device)


def _check_calibration(maps: Tensor, *options: bool | int | float) -> None:
    check_maps(maps)
    check_blur(checked_options(*options), maps.shape[2], maps.shape[3])
    if maps.dtype != torch.float32:
        raise TypeError(f"personalizer::cpp_calibration takes float32 maps, these are {maps.dtype}")


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float):
    _check_forward(query, key, value, tokens, scale)
    query, key, value = with_dense_rows(query), with_dense_rows(key), with_dense_rows(value)
    tokens = tokens.contiguous()
    shape = _described(query, key, tokens, scale)
    out = rows_like(query)
    maps = query.new_empty((shape.batch, shape.tracked, shape.queries), dtype=torch.float32)
    arrays = (_array(query), _array(key), _array(value), _array(out))
    capi.check(_library.pk_attention_forward(shape, *arrays, maps.data_ptr(), _threads))
    return out, maps


def _attention_backward(
    grad_out: Tensor, grad_maps: Tensor, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float
):
    _check_backward(grad_out, grad_maps, query, key, value, tokens, scale)
    query, key, value = with_dense_rows(query), with_dense_rows(key), with_dense_rows(value)
    grad_out, grad_maps, tokens = with_dense_rows(grad_out), grad_maps.contiguous(), tokens.contiguous()
    shape = _described(query, key, tokens, scale)
    grads = rows_like(query), rows_like(key), rows_like(value)
    arrays = (_array(query), _array(key), _array(value), _array(grad_out))
    outputs = (_array(grads[0]), _array(grads[1]), _array(grads[2]))
    capi.check(_library.pk_attention_backward(shape, *arrays, grad_maps.data_ptr(), *outputs, _threads))
    return grads


def long_gradients(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value of an attention over many keys that was computed elsewhere.

    Args:
        grad_out: of its result, bfloat16 ``[B, H, N, D]``.
        query: likewise, N a multiple of 32.
        key: ``[B, H, T, D]``, T a multiple of 32.
        value: likewise.
        out: the result.
        logsums: the logarithm of the sum of exp(logits) of each query, float32 ``[B, H, N]``, contiguous.
        scale: factor on the logits.

    Raises:
        ValueError: shapes, types or an instruction set for which there is no such code.
    """
    grad_out, out = with_dense_rows(grad_out), with_dense_rows(out)
    shape = _described(query, key, logsums.new_empty((query.shape[0], 0), dtype=torch.int64), scale)
    grads = rows_like(query), rows_like(key), rows_like(value)
    inputs = (_array(query), _array(key), _array(value), _array(out))
    outputs = (_array(grads[0]), _array(grads[1]), _array(grads[2]))
    capi.check(
        _library.pk_attention_long_backward(shape, *inputs, logsums.data_ptr(), _array(grad_out), *outputs, _threads)
    )
    return grads


def _calibration(maps: Tensor, *options: bool | int | float):
    _check_calibration(maps, *options)
    maps = maps.contiguous()
    batch, count, height, width = maps.shape
    described = capi.Calibration(batch, count // 2, height, width, *options)
    loss, grad = maps.new_empty(batch), torch.empty_like(maps)
    pointers = (maps.data_ptr(), loss.data_ptr(), grad.data_ptr())
    capi.check(_library.pk_calibration_loss(described, *pointers, _threads))
    return loss, grad


if _problem is None:
    _registry.impl("cpp_attention", _attention_forward, "CPU")
    _registry.impl("cpp_attention_backward", _attention_backward, "CPU")
    _registry.impl("cpp_calibration", _calibration, "CPU")


@torch.library.register_fake("personalizer::cpp_attention", lib=_registry)
def _(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    _check_forward(query, key, value, tokens, scale)
    maps = query.new_empty(query.shape[0], tokens.shape[1], query.shape[2], dtype=torch.float32)
    return rows_like(query), maps


@torch.library.register_fake("personalizer::cpp_attention_backward", lib=_registry)
def _(
    grad_out: Tensor, grad_maps: Tensor, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check_backward(grad_out, grad_maps, query, key, value, tokens, scale)
    return rows_like(query), rows_like(key), rows_like(value)


@torch.library.register_fake("personalizer::cpp_calibration", lib=_registry)
def _(maps: Tensor, *options: bool | int | float) -> tuple[Tensor, Tensor]:
    _check_calibration(maps, *options)
    return maps.new_empty(maps.shape[0]), maps.new_empty(maps.shape)


def _keep_attention(ctx, inputs, output) -> None:
    query, key, value, tokens, scale = inputs
    ctx.save_for_backward(query, key, value, tokens)
    ctx.scale = scale


def _attention_gradient(ctx, grad_out: Tensor, grad_maps: Tensor):
    query, key, value, tokens = ctx.saved_tensors
    with torch.no_grad():
        grads = _ops.cpp_attention_backward(grad_out.to(query.dtype), grad_maps, query, key, value, tokens, ctx.scale)
    inputs = (grad_out, grad_maps, query, key, value)
    return (*(first_alone(grad, "cpp", *inputs) for grad in grads), None, None)


def _keep_calibration(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0], output[1])


def _calibration_gradient(ctx, grad_loss: Tensor, grad_of_grad: Tensor):
    maps, grad = ctx.saved_tensors
    return (first_alone(loss_gradient(grad.detach(), grad_loss), "cpp", maps), *NO_GRADIENTS)


torch.library.register_autograd(
    "personalizer::cpp_attention", _attention_gradient, setup_context=_keep_attention, lib=_registry
)
torch.library.register_autograd(
    "personalizer::cpp_calibration", _calibration_gradient, setup_context=_keep_calibration, lib=_registry
)
torch.library.register_autocast("personalizer::cpp_attention", "cpu", AUTOCAST_TYPES["cpu"], lib=_registry)
torch.library.register_autocast("personalizer::cpp_calibration", "cpu", torch.float32, lib=_registry)


def refuses_attention(query: Tensor, keys: int, tracked: int) -> str | None:
    """Take float32 and bfloat16 tensors on the CPU."""
    if query.dtype in _TYPES and query.device.type == "cpu":
        return None
    return f"takes float32 or bfloat16 tensors on the CPU, query is {query.dtype} on {query.device}"


def refuses_loss(columns: Sequence[Tensor], height: int, width: int) -> str | None:
    """Take float32 maps on the CPU."""
    first = columns[0]
    if first.dtype == torch.float32 and first.device.type == "cpu":
        return None
    return f"takes float32 maps on the CPU, these are {first.dtype} on {first.device}"


def attention(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float, detach_first: bool
) -> tuple[Tensor, Tensor]:
    """Attend; columns are ``[B, 1, K, N]``, averaged over the heads."""
    if detach_first:
        key, value = with_first_detached(key, value)
    out, maps = _ops.cpp_attention(query, key, value, token_indices, scale)
    return out, maps[:, None]


def loss(columns: Sequence[Tensor], height: int, width: int, options: CalibrationOptions) -> Tensor:
    """Return the loss ``[B]``; its gradient is computed along with it."""
    return _ops.cpp_calibration(mean_maps(columns, height, width), *option_values(options))[0]


BACKEND = Backend(
    attention=attention,
    loss=loss,
    refuses_attention=refuses_attention,
    refuses_loss=refuses_loss,
    chosen_on=("cpu",),
    problem=_problem,
    first_derivatives_alone=True,
)
