"""The Triton kernels as torch operators: fake kernels, autograd and the autocast rule."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_attention, check_blur, check_columns, check_gradient, check_scale, check_token_values
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
from .derivatives import first_alone
from .triton_attention import launch_backward, launch_forward
from .triton_calibration import launch_calibration
from .triton_limits import refuses_attention, refuses_loss

_REACH = 2**31  # elements of a row of the batch: inside it the kernels count in 32 bits


def _check_forward(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> None:
    """Check all that the kernels take on trust but the tokens: one out of range matches no key."""
    check_attention(query, key, value, tokens)
    check_scale(scale)
    refused = refuses_attention(query, key.shape[2], tokens.shape[1])
    if refused is not None:
        raise ValueError(f"personalizer::triton_attention {refused}")


def _check_reach(*tensors: Tensor) -> None:
    for tensor in tensors:
        _, heads, rows, width = tensor.shape
        if (heads - 1) * tensor.stride(1) + (rows - 1) * tensor.stride(2) + width > _REACH:
            raise ValueError("personalizer::triton_attention takes at most 2^31 elements in a row of the batch")


def _check_backward(
    grad_out: Tensor,
    grad_columns: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    scale: float,
) -> None:
    _check_forward(query, key, value, tokens, scale)
    batch, heads, queries, _ = query.shape
    check_gradient("grad_out", grad_out, query.shape, query.dtype, query.device)
    wanted = (batch, heads, tokens.shape[1], queries)
    check_gradient("grad_columns", grad_columns, wanted, torch.float32, query.device)


def _check_calibration(
    columns: list[Tensor], height: int, width: int, *options: bool | int | float
) -> CalibrationOptions:
    check_columns(columns, height, width)
    chosen = checked_options(*options)
    check_blur(chosen, height, width)
    refused = refuses_loss(columns, height, width)
    if refused is not None:
        raise ValueError(f"personalizer::triton_calibration {refused}")
    return chosen


@torch.library.custom_op("personalizer::triton_attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, first_key: int
) -> tuple[Tensor, Tensor]:
    _check_forward(query, key, value, tokens, scale)
    check_token_values(tokens, key.shape[2])
    query, key, value = with_dense_rows(query), with_dense_rows(key), with_dense_rows(value)
    _check_reach(query, key, value)
    return launch_forward(query, key, value, tokens.contiguous(), scale)


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, first_key: int):
    _check_forward(query, key, value, tokens, scale)
    columns = query.new_empty(*query.shape[:2], tokens.shape[1], query.shape[2], dtype=torch.float32)
    return rows_like(query), columns


@torch.library.custom_op("personalizer::triton_attention_backward", mutates_args=())
def _attention_backward(
    grad_out: Tensor,
    grad_columns: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    scale: float,
    first_key: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_backward(grad_out, grad_columns, query, key, value, tokens, scale)
    check_token_values(tokens, key.shape[2])
    query, key, value = with_dense_rows(query), with_dense_rows(key), with_dense_rows(value)
    grad_out, tokens = with_dense_rows(grad_out), tokens.contiguous()
    _check_reach(query, key, value, grad_out)
    return launch_backward(grad_out, grad_columns, query, key, value, tokens, scale, first_key)


@_attention_backward.register_fake
def _(
    grad_out: Tensor,
    grad_columns: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    scale: float,
    first_key: int,
):
    _check_backward(grad_out, grad_columns, query, key, value, tokens, scale)
    return rows_like(query), rows_like(key), rows_like(value)


def _calibration_kernel(columns: list[Tensor], height: int, width: int, *options: bool | int | float):
    chosen = _check_calibration(columns, height, width, *options)
    return launch_calibration([x.contiguous() for x in columns], height, width, chosen)


_calibration = torch.library.custom_op(
    "personalizer::triton_calibration",
    _calibration_kernel,
    mutates_args=(),
    schema=f"(Tensor[] columns, int height, int width, {OPTIONS_SCHEMA}) -> (Tensor, Tensor)",
)


@_calibration.register_fake
def _(columns: list[Tensor], height: int, width: int, *options: bool | int | float):
    _check_calibration(columns, height, width, *options)
    batch, _, count, _ = columns[0].shape
    return columns[0].new_empty(batch), columns[0].new_empty(batch, count, height, width)


def _keep_attention(ctx, inputs, output) -> None:
    query, key, value, tokens, ctx.scale, ctx.first_key = inputs
    ctx.save_for_backward(query, key, value, tokens)


def _attention_gradient(ctx, grad_out: Tensor, grad_columns: Tensor):
    query, key, value, tokens = ctx.saved_tensors
    with torch.no_grad():
        grads = _attention_backward(
            grad_out.to(query.dtype), grad_columns, query, key, value, tokens, ctx.scale, ctx.first_key
        )
    inputs = (grad_out, grad_columns, query, key, value)
    return (*(first_alone(grad, "triton", *inputs) for grad in grads), None, None, None)


def _keep_calibration(ctx, inputs, output) -> None:
    columns = inputs[0]
    ctx.layers, ctx.shape = len(columns), columns[0].shape
    ctx.save_for_backward(output[1], *columns)


def _calibration_gradient(ctx, grad_loss: Tensor, grad_of_grad: Tensor):
    grad, *columns = ctx.saved_tensors
    _, heads, count, cells = ctx.shape
    # The mean over layers and heads gives each of them the same share: one tensor, repeated by strides of zero.
    share = first_alone(loss_gradient(grad.detach(), grad_loss / (heads * ctx.layers)), "triton", *columns)
    spread = share.flatten(2)[:, None].expand(-1, heads, count, cells)
    return ([spread] * ctx.layers, None, None, *NO_GRADIENTS)


_attention.register_autograd(_attention_gradient, setup_context=_keep_attention)
_calibration.register_autograd(_calibration_gradient, setup_context=_keep_calibration)
for _device, _low in AUTOCAST_TYPES.items():
    _attention.register_autocast(_device, _low)
    _calibration.register_autocast(_device, torch.float32)


def attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, first_key: int
) -> tuple[Tensor, Tensor]:
    """Attend; return out ``[B, H, N, D]`` and the tracked columns of every head, float32 ``[B, H, K, N]``.

    Args:
        query: ``[B, H, N, D]``, float32, float16 or bfloat16.
        key: ``[B, H, T, D]`` with T <= 256.
        value: ``[B, H, T, D]``.
        tokens: int64 ``[B, K]`` with K <= 16, -1 for none.
        scale: factor on the logits.
        first_key: keys before this one get no gradient, 1 for Custom Diffusion's rule and 0 for none.
    """
    return _attention(query, key, value, tokens, scale, first_key)


def calibration(columns: list[Tensor], height: int, width: int, options: CalibrationOptions) -> Tensor:
    """Return the loss of each row ``[B]`` from the columns float32 ``[B, H, 2S, height * width]`` of several layers."""
    return _calibration(columns, height, width, *option_values(options))[0]
