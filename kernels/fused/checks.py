"""What attention and loss take, whatever the backend: the public functions and every operator ask here.

Operators can be called directly (``torch.ops.personalizer``), and what they compute on is memory without bounds. A
check is a few comparisons; only :func:`check_token_values` reads a tensor, and only where that waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .options import CalibrationOptions

_LARGEST = 3.4028234663852886e38  # of float32, in which backends multiply logits
_SMALLEST = 1.401298464324817e-45


def check_attention(query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor) -> None:
    """Check shapes, types, layouts and devices of the inputs of attention; batch, queries and tracked tokens may be 0.

    Raises:
        TypeError: tensors of several types, or of one that is no floating-point type.
        ValueError: shapes that do not fit, tensors that are not dense or on several devices.
    """
    shape, keys = query.shape, key.shape
    if not (
        len(shape) == 4 == len(keys)
        and keys == value.shape
        and shape[0] == keys[0]
        and shape[1] == keys[1] > 0
        and shape[3] == keys[3] > 0
        and keys[2] > 0
    ):
        raise ValueError(
            "query must be [B, H, N, D] and key and value [B, H, T, D] with the same B, H and D and at least one head, "
            f"key and column, got {list(shape)}, {list(keys)} and {list(value.shape)}"
        )
    tokens = token_indices.shape
    if len(tokens) != 2 or tokens[0] != shape[0] or token_indices.dtype != torch.int64:
        raise ValueError(
            f"token_indices must be int64 [B, K] with B = {shape[0]}, got {token_indices.dtype} {list(tokens)}"
        )
    dtype = query.dtype
    if not (dtype == key.dtype == value.dtype and dtype.is_floating_point):
        raise TypeError(
            f"query, key and value must have one floating-point type, got {dtype}, {key.dtype} and {value.dtype}"
        )
    device = query.device
    if not device == key.device == value.device == token_indices.device:
        devices = {str(x.device) for x in (query, key, value, token_indices)}
        raise ValueError(f"query, key, value and token_indices must be on one device, got {sorted(devices)}")
    if not torch.strided == query.layout == key.layout == value.layout == token_indices.layout:
        raise ValueError("query, key, value and token_indices must be dense tensors")


def check_token_values(token_indices: Tensor, keys: int) -> None:
    """Check that tokens are -1 or among the keys, if the values are at hand.

    On a GPU that would wait for everything that is queued there; while compiling there are none.

    Raises:
        ValueError: a token that is no position in ``0..keys-1`` and not -1.
    """
    if token_indices.device.type != "cpu" or torch.compiler.is_compiling() or not token_indices.numel():
        return
    low, high = token_indices.aminmax()
    if low < -1 or high >= keys:
        raise ValueError(f"token_indices must be -1 or a position in 0..{keys - 1}, got {int(low)}..{int(high)}")


def check_scale(scale: float) -> None:
    """Check the factor on the logits.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above zero, not finite, or beyond float32.
    """
    if isinstance(scale, (bool, str, bytes, Tensor)):
        raise TypeError(f"scale must be a number, got {type(scale).__name__}")
    if not _SMALLEST <= scale <= _LARGEST:
        raise ValueError(f"scale must be above zero and finite in float32, got {scale}")


def check_gradient(name: str, grad: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """Check what comes in for a backward pass against the output that it belongs to.

    Raises:
        TypeError: another type.
        ValueError: another shape or device, or a tensor that is not dense.
    """
    if grad.shape != shape or grad.device != device or grad.layout != torch.strided:
        raise ValueError(
            f"{name} must be dense {list(shape)} on {device}, got {grad.layout} {list(grad.shape)} on {grad.device}"
        )
    if grad.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {grad.dtype}")


def check_maps(maps: Tensor) -> None:
    """Check the shape ``[B, 2S, h, w]`` of maps, and that they are dense; B may be 0.

    Raises:
        ValueError: another shape, or a sparse tensor.
    """
    shape = maps.shape
    if len(shape) != 4 or shape[1] < 2 or shape[1] % 2 or shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts and at least one cell, got {list(shape)}")
    if maps.layout != torch.strided:
        raise ValueError(f"maps must be a dense tensor, got {maps.layout}")


def check_columns(columns: Sequence[Tensor], height: int, width: int) -> None:
    """Check columns ``[B, G, 2S, height * width]``, one tensor of each layer; only G may differ.

    Raises:
        TypeError: layers of several types, or of one that is no floating-point type.
        ValueError: other shapes, no layer, tensors that are not dense or on several devices.
    """
    shapes = [c.shape for c in columns]
    fitting = [
        len(s) == len(shapes[0]) == 4
        and s[0] == shapes[0][0]
        and s[1] > 0
        and s[2] == shapes[0][2] > 0
        and s[2] % 2 == 0
        and s[3] == height * width > 0
        for s in shapes
    ]
    if not fitting or not all(fitting) or height < 1:
        raise ValueError(
            f"columns must be [B, G, 2S, {height * width}] for each layer, with the same B and S and at least one "
            f"cell, got {[list(s) for s in shapes]}"
        )
    if len({c.dtype for c in columns}) > 1 or not columns[0].is_floating_point():
        raise TypeError(f"columns must have one floating-point type, got {sorted({str(c.dtype) for c in columns})}")
    if len({c.device for c in columns}) > 1 or any(c.layout != torch.strided for c in columns):
        raise ValueError("columns must be dense tensors on one device")


def check_blur(options: CalibrationOptions, height: int, width: int) -> None:
    """Check that there are neighbours to blur with.

    Raises:
        ValueError: a line of one cell, and ``sigma`` above zero.
    """
    if options.sigma > 0 and (height < 2 or width < 2):
        raise ValueError(f"maps of {height} x {width} cells have no neighbours to blur with: sigma must be 0")
