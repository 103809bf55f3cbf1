"""The CPU library on numpy arrays, without torch."""

from __future__ import annotations

import os
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdk.bindings import capi
from sdk.bindings.capi import instruction_set, library, use_instruction_set
from sdk.kernels.options import CalibrationOptions

__all__ = [
    "attention_with_maps",
    "attention_with_maps_backward",
    "calibration_loss",
    "instruction_set",
    "library",
    "use_instruction_set",
]

Floats = NDArray[np.float32]


def _rows(array: NDArray, name: str) -> NDArray:
    if array.ndim != 4:
        raise ValueError(f"{name} must be [B, H, rows, D], got {list(array.shape)}")
    array = np.asarray(array, np.float32)
    return array if array.strides[3] == array.itemsize else np.ascontiguousarray(array)


def _view(array: Floats) -> capi.Array:
    return capi.Array(array.ctypes.data, *(stride // array.itemsize for stride in array.strides[:3]))


def _described(query: Floats, key: Floats, tokens: NDArray, scale: float | None) -> capi.Attention:
    batch, heads, queries, width = query.shape
    factor = width**-0.5 if scale is None else scale
    return capi.Attention(
        batch, heads, queries, key.shape[2], width, tokens.shape[1], tokens.ctypes.data, factor, capi.FLOAT32
    )


def _runner(threads: int | None) -> capi.Runner:
    return library().pk_threads(threads or len(os.sched_getaffinity(0)))


def _prepared(query, key, value, token_indices) -> tuple[Floats, Floats, Floats, NDArray]:
    query, key, value = _rows(query, "query"), _rows(key, "key"), _rows(value, "value")
    tokens = np.ascontiguousarray(token_indices, np.int64)
    if key.shape != value.shape or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError("query must be [B, H, N, D] and key and value [B, H, T, D] with the same B, H and D")
    if tokens.ndim != 2 or len(tokens) != len(query):
        raise ValueError(f"token_indices must be [B, K] with B = {len(query)}, got {list(tokens.shape)}")
    return query, key, value, tokens


def attention_with_maps(
    query: NDArray,
    key: NDArray,
    value: NDArray,
    token_indices: NDArray,
    *,
    scale: float | None = None,
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Attend, and return the maps of the tracked tokens; see :func:`sdk.kernels.attention_with_maps`.

    Args:
        query: ``[B, H, N, D]``; converted to float32, any strides.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        token_indices: integers ``[B, K]``, -1 for none.
        scale: factor on the logits; default ``D ** -0.5``.
        threads: default one for each processor this program may use.

    Returns:
        ``out`` ``[B, H, N, D]`` and ``maps`` ``[B, K, N]``, float32.

    Raises:
        ValueError: shapes or token indices that make no sense.
        ImportError: the library was not built.
    """
    query, key, value, tokens = _prepared(query, key, value, token_indices)
    out = np.empty(query.shape, np.float32)
    maps = np.empty((len(query), tokens.shape[1], query.shape[2]), np.float32)
    shape, runner = _described(query, key, tokens, scale), _runner(threads)
    arrays = [_view(array) for array in (query, key, value, out)]
    capi.check(library().pk_attention_forward(shape, *arrays, maps.ctypes.data, runner))
    return out, maps


def attention_with_maps_backward(
    grad_out: NDArray,
    grad_maps: NDArray | None,
    query: NDArray,
    key: NDArray,
    value: NDArray,
    token_indices: NDArray,
    *,
    scale: float | None = None,
    threads: int | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of query, key and value from those of out and maps; see :func:`attention_with_maps`."""
    query, key, value, tokens = _prepared(query, key, value, token_indices)
    grad_out = _rows(grad_out, "grad_out")
    grads = [np.empty(array.shape, np.float32) for array in (query, key, value)]
    maps = None if grad_maps is None else np.ascontiguousarray(grad_maps, np.float32)
    shape, runner = _described(query, key, tokens, scale), _runner(threads)
    arrays = [_view(array) for array in (query, key, value, grad_out)]
    pointer = None if maps is None else maps.ctypes.data
    outputs = [_view(grad) for grad in grads]
    capi.check(library().pk_attention_backward(shape, *arrays, pointer, *outputs, runner))
    return grads[0], grads[1], grads[2]


def calibration_loss(
    maps: NDArray, options: CalibrationOptions | None = None, *, threads: int | None = None, **changes: Any
) -> tuple[Floats, Floats]:
    """Return the loss of each row, ``[B]``, and its gradient; see :func:`sdk.kernels.calibration_loss`.

    Args:
        maps: ``[B, 2S, h, w]``, converted to float32.
        options: what is computed; ``None``: the defaults.
        threads: default one for each processor this program may use.
        **changes: single options, by the names of the fields of :class:`sdk.kernels.CalibrationOptions`.

    Raises:
        TypeError: an unknown option.
        ValueError: a shape or an option that makes no sense.
        ImportError: the library was not built.
    """
    chosen = (options or CalibrationOptions()).with_changes(**changes)
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts, got {list(maps.shape)}")
    batch, count, height, width = maps.shape
    loss, grad = np.empty(batch, np.float32), np.empty(maps.shape, np.float32)
    described = capi.Calibration(batch, count // 2, height, width, *astuple(chosen))
    pointers = [array.ctypes.data for array in (maps, loss, grad)]
    capi.check(library().pk_calibration_loss(described, *pointers, _runner(threads)))
    return loss, grad
