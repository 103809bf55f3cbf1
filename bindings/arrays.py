"""The CPU library on numpy arrays, without torch."""

from __future__ import annotations

import os
from ctypes import c_float
from dataclasses import astuple
from math import isfinite
from numbers import Real
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
_MOST_THREADS = 256  # what csrc/threads.cpp starts at most


def _floats(given: ArrayLike, name: str) -> Floats:
    """Return an array of native, aligned float32; a copy only where it is none."""
    array = np.asarray(given)
    # Truth values would pass for 0 and 1, complex numbers would lose a part.
    if array.dtype == np.bool_ or not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    return np.require(array, np.float32, "A")


def _rows(given: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> Floats:
    """Return ``[B, H, rows, D]`` whose strides the library takes: whole elements, none negative, dense rows."""
    array = _floats(given, name)
    if array.ndim != 4:
        raise ValueError(f"{name} must be [B, H, rows, D], got {list(array.shape)}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(array.shape)}")
    strides = array.strides
    if min(strides) < 0 or strides[3] != array.itemsize or any(stride % array.itemsize for stride in strides):
        return np.ascontiguousarray(array)
    return array


def _tokens(given: ArrayLike, batch: int, keys: int) -> NDArray[np.int64]:
    array = np.asarray(given)
    if array.ndim != 2 or len(array) != batch:
        raise ValueError(f"token_indices must be [B, K] with B = {batch}, got {list(array.shape)}")
    if array.size == 0:  # an empty list has the type of a float
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"token_indices must be integers, got {array.dtype}")
    low, high = int(array.min()), int(array.max())  # before the cast, which wraps
    if low < -1 or high >= keys:
        raise ValueError(f"a token index must be -1 or a position in 0..{keys - 1}, got {low}..{high}")
    return np.require(array, np.int64, ("C", "A"))


def _view(array: Floats) -> capi.Array:
    return capi.Array(array.ctypes.data, *(stride // array.itemsize for stride in array.strides[:3]))


def _factor(scale: float | None, width: int) -> float:
    if scale is None:
        return width**-0.5
    if not isinstance(scale, Real) or isinstance(scale, bool):
        raise TypeError(f"scale must be a number, got {scale!r}")
    try:
        factor = c_float(float(scale)).value
    except OverflowError:  # of an integer that no float can hold
        factor = 0.0
    if not (factor > 0 and isfinite(factor)):
        raise ValueError(f"scale must be above zero and finite in float32, got {scale}")
    return factor


def _described(query: Floats, key: Floats, tokens: NDArray, scale: float | None) -> capi.Attention:
    batch, heads, queries, width = query.shape
    factor = _factor(scale, width)
    return capi.Attention(
        batch, heads, queries, key.shape[2], width, tokens.shape[1], tokens.ctypes.data, factor, capi.FLOAT32
    )


def _runner(threads: int | None) -> capi.Runner:
    if threads is None:
        return library().pk_threads(len(os.sched_getaffinity(0)))
    if isinstance(threads, (bool, np.bool_)) or not hasattr(threads, "__index__"):
        raise TypeError(f"threads must be a whole number, got {threads!r}")
    count = index(threads)
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    return library().pk_threads(min(count, _MOST_THREADS))


def _prepared(query, key, value, token_indices) -> tuple[Floats, Floats, Floats, NDArray]:
    query, key, value = _rows(query, "query"), _rows(key, "key"), _rows(value, "value")
    if key.shape != value.shape or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            "query must be [B, H, N, D] and key and value [B, H, T, D] with the same B, H and D, got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    if 0 in key.shape[1:]:
        raise ValueError(f"there must be at least one head, key and column, key is {list(key.shape)}")
    return query, key, value, _tokens(token_indices, len(query), key.shape[2])


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
        query: ``[B, H, N, D]`` real numbers, converted to float32; any strides and byte order. B and N may be 0.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        token_indices: integers ``[B, K]``, positions in ``0..T-1``, or -1 for none. K may be 0.
        scale: factor on the logits, above zero and finite in float32; default ``D ** -0.5``.
        threads: at least 1; default one for each processor this program may use. No more are started than there are
            heads in the batch, and never more than 256.

    Returns:
        ``out`` ``[B, H, N, D]`` and ``maps`` ``[B, K, N]``, float32.

    Raises:
        TypeError: arrays or arguments of a type that makes no sense.
        ValueError: shapes, token indices, a scale or a number of threads that make no sense.
        MemoryError: too little memory.
        ImportError: the library was not built.
    """
    query, key, value, tokens = _prepared(query, key, value, token_indices)
    shape, runner = _described(query, key, tokens, scale), _runner(threads)
    out = np.empty(query.shape, np.float32)
    maps = np.empty((len(query), tokens.shape[1], query.shape[2]), np.float32)
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
    """Return the gradients of query, key and value from those of out and maps.

    Args:
        grad_out: ``[B, H, N, D]``, converted as ``query``.
        grad_maps: ``[B, K, N]``; ``None``: nothing depends on the maps.
        query: see :func:`attention_with_maps`, as for the rest.
        key: likewise.
        value: likewise.
        token_indices: likewise.
        scale: likewise.
        threads: likewise.

    Returns:
        Gradients ``[B, H, N, D]``, ``[B, H, T, D]`` and ``[B, H, T, D]``, float32.

    Raises:
        TypeError: as :func:`attention_with_maps`.
        ValueError: likewise, and gradients of another shape than what they belong to.
        MemoryError: likewise.
        ImportError: likewise.
    """
    query, key, value, tokens = _prepared(query, key, value, token_indices)
    grad_out = _rows(grad_out, "grad_out", query.shape)
    maps = None
    if grad_maps is not None:
        maps = np.ascontiguousarray(_floats(grad_maps, "grad_maps"))
        wanted = (len(query), tokens.shape[1], query.shape[2])
        if maps.shape != wanted:
            raise ValueError(f"grad_maps must be {list(wanted)}, got {list(maps.shape)}")
    shape, runner = _described(query, key, tokens, scale), _runner(threads)
    grads = [np.empty(array.shape, np.float32) for array in (query, key, value)]
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
        maps: ``[B, 2S, h, w]`` real numbers, converted to float32. B may be 0.
        options: what is computed; ``None``: the defaults.
        threads: at least 1; default one for each processor this program may use. No more are started than there are
            rows, and never more than 256.
        **changes: single options, by the names of the fields of :class:`sdk.kernels.CalibrationOptions`.

    Raises:
        TypeError: an unknown option, or maps or arguments of a type that makes no sense.
        ValueError: a shape or an option that makes no sense.
        MemoryError: too little memory.
        ImportError: the library was not built.
    """
    if options is not None and not isinstance(options, CalibrationOptions):
        raise TypeError(f"options must be CalibrationOptions or None, got {options!r}")
    chosen = (options or CalibrationOptions()).with_changes(**changes)
    maps = np.ascontiguousarray(_floats(maps, "maps"))
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2 or 0 in maps.shape[2:]:
        raise ValueError(
            f"maps must be [B, 2S, h, w] with S >= 1 concepts and at least one cell, got {list(maps.shape)}"
        )
    batch, count, height, width = maps.shape
    if chosen.sigma > 0 and min(height, width) < 2:
        raise ValueError(f"maps of {height} x {width} cells have no neighbours to blur with: sigma must be 0")
    runner = _runner(threads)
    loss, grad = np.empty(batch, np.float32), np.empty(maps.shape, np.float32)
    described = capi.Calibration(batch, count // 2, height, width, *astuple(chosen))
    pointers = [array.ctypes.data for array in (maps, loss, grad)]
    capi.check(library().pk_calibration_loss(described, *pointers, runner))
    return loss, grad
