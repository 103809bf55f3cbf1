"""The Triton kernels as torch operators: fake kernels, autograd and the autocast rule.

The tensors may be on a GPU, or on the CPU if Triton was imported with ``TRITON_INTERPRET=1``. The interpreter of Triton
3.9 returns garbage for products of bfloat16, so that type is refused there. Under autocast, attention runs in the
autocast type (as stock attention does) and the loss in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_attention import MAX_KEYS, MAX_TRACKED, launch_backward, launch_forward
from .triton_calibration import MAX_SIDE, launch_calibration

_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _rows_like(tensor: Tensor) -> Tensor:
    batch, heads, rows, width = tensor.shape
    return tensor.new_empty(batch, rows, heads, width).transpose(1, 2)


@torch.library.custom_op("personalizer::triton_attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, first_key: int
) -> tuple[Tensor, Tensor]:
    return launch_forward(_dense(query), _dense(key), _dense(value), tokens.contiguous(), scale)


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, first_key: int):
    columns = query.new_empty(*query.shape[:2], tokens.shape[1], query.shape[2], dtype=torch.float32)
    return _rows_like(query), columns


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
    dense_query, dense_key, dense_value = _dense(query), _dense(key), _dense(value)
    return launch_backward(
        _dense(grad_out), grad_columns, dense_query, dense_key, dense_value, tokens.contiguous(), scale, first_key
    )


@_attention_backward.register_fake
def _(grad_out, grad_columns, query: Tensor, key: Tensor, value: Tensor, tokens, scale, first_key):
    return _rows_like(query), _rows_like(key), _rows_like(value)


@torch.library.custom_op("personalizer::triton_calibration", mutates_args=())
def _calibration(
    columns: list[Tensor],
    height: int,
    width: int,
    normalize: bool,
    sigma: float,
    suppress: int,
    smooth: float,
    bind: float,
    separate: float,
) -> tuple[Tensor, Tensor]:
    columns = [x.contiguous() for x in columns]
    return launch_calibration(columns, height, width, normalize, sigma, suppress, smooth, bind, separate)


@_calibration.register_fake
def _(columns: list[Tensor], height: int, width: int, normalize, sigma, suppress, smooth, bind, separate):
    batch, _, count, _ = columns[0].shape
    return columns[0].new_empty(batch), columns[0].new_empty(batch, count, height, width)


def _keep_attention(ctx, inputs, output) -> None:
    query, key, value, tokens, ctx.scale, ctx.first_key = inputs
    ctx.save_for_backward(query, key, value, tokens)


def _attention_gradient(ctx, grad_out: Tensor, grad_columns: Tensor):
    query, key, value, tokens = ctx.saved_tensors
    grads = _attention_backward(
        grad_out.to(query.dtype), grad_columns, query, key, value, tokens, ctx.scale, ctx.first_key
    )
    return (*grads, None, None, None)


def _keep_calibration(ctx, inputs, output) -> None:
    columns = inputs[0]
    ctx.layers, ctx.shape = len(columns), columns[0].shape
    ctx.save_for_backward(output[1])


def _calibration_gradient(ctx, grad_loss: Tensor, grad_of_grad: Tensor):
    (grad,) = ctx.saved_tensors
    _, heads, count, cells = ctx.shape
    # One tensor for all layers and heads, spread by strides of zero.
    share = grad * (grad_loss / (heads * ctx.layers))[:, None, None, None]
    spread = share.flatten(2)[:, None].expand(-1, heads, count, cells)
    return ([spread] * ctx.layers, *([None] * 8))


_attention.register_autograd(_attention_gradient, setup_context=_keep_attention)
_calibration.register_autograd(_calibration_gradient, setup_context=_keep_calibration)
for _device in ("cuda", "cpu"):
    _low = torch.float16 if _device == "cuda" else torch.bfloat16
    _attention.register_autocast(_device, _low)
    _calibration.register_autocast(_device, torch.float32)


def attention_columns(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float, *, detach_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend; return out ``[B, H, N, D]`` and the tracked columns of every head, float32 ``[B, H, K, N]``.

    Args:
        query: ``[B, H, N, D]``, float32, float16 or bfloat16.
        key: ``[B, H, T, D]`` with T <= 256.
        value: ``[B, H, T, D]``.
        tokens: int64 ``[B, K]`` with K <= 16, -1 for none.
        scale: factor on the logits.
        detach_first: whether the first key passes no gradient to K and V (Custom Diffusion).

    Raises:
        ValueError: a size or type that the kernels do not take.
    """
    if key.shape[2] > MAX_KEYS:
        raise ValueError(f"backend 'triton' takes at most {MAX_KEYS} keys, key has {key.shape[2]}")
    if tokens.shape[1] > MAX_TRACKED:
        raise ValueError(f"backend 'triton' tracks at most {MAX_TRACKED} tokens, token_indices has {tokens.shape[1]}")
    if query.dtype not in _TYPES:
        raise ValueError(f"backend 'triton' takes float32, float16 or bfloat16, query is {query.dtype}")
    if query.dtype == torch.bfloat16 and not query.is_cuda:
        raise ValueError("Triton's interpreter computes bfloat16 products wrongly: use float32 or float16 on the CPU")
    return _attention(query, key, value, tokens, scale, int(detach_first))


def calibration(
    columns: list[Tensor],
    height: int,
    width: int,
    normalize: bool,
    sigma: float,
    suppress: int,
    smooth: float,
    bind: float,
    separate: float,
) -> Tensor:
    """Return the loss of each row from the columns ``[B, H, 2S, height * width]`` of several layers."""
    if max(height, width) > MAX_SIDE or min(height, width) < 2:
        raise ValueError(f"backend 'triton' takes maps of 2 to {MAX_SIDE} cells a side, got {height} x {width}")
    return _calibration(columns, height, width, normalize, sigma, suppress, smooth, bind, separate)[0]
