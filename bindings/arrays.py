"""The CPU library on numpy arrays, without torch: a thin view of csrc/include/personalizer_kernels.h through ctypes."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "attention_with_maps",
    "attention_with_maps_backward",
    "calibration_loss",
    "instruction_set",
    "library",
    "use_instruction_set",
]
Floats = NDArray[np.float32]


class _Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "row"))]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "width", "tracked")),
        ("tokens", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int),
    ]


class _Calibration(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "concepts", "height", "width")),
        ("normalize", ctypes.c_int),
        ("sigma", ctypes.c_double),
        ("suppress", ctypes.c_int),
        *((name, ctypes.c_double) for name in ("smooth", "bind", "separate")),
    ]


class _Runner(ctypes.Structure):
    _fields_ = [("parallel_for", ctypes.c_void_p), ("context", ctypes.c_void_p)]


@cache
def library() -> ctypes.CDLL:
    """Return the loaded library.

    Raises:
        ImportError: it was not built.
    """
    found = importlib.util.find_spec("sdk.bindings._core")
    if found is None or found.origin is None:
        raise ImportError("the compiled CPU library is missing: install the package where a C++ compiler is found")
    loaded = ctypes.CDLL(found.origin)
    loaded.pk_instruction_set.restype = ctypes.c_char_p
    loaded.pk_message.restype = ctypes.c_char_p
    loaded.pk_threads.restype = _Runner
    return loaded


def instruction_set() -> str:
    """Return what the library runs on: ``"amx"``, ``"avx512_bf16"``, ``"avx512"``, ``"avx2"`` or ``"portable"``."""
    return library().pk_instruction_set().decode()


def use_instruction_set(name: str | None) -> None:
    """Choose the instruction set; ``None`` takes the best one.

    Raises:
        ValueError: this processor or this build does not have it.
    """
    if library().pk_use_instruction_set(name.encode() if name else None):
        raise ValueError(f"instruction set {name!r} cannot be used here")


def _rows(array: NDArray, name: str) -> NDArray:
    if array.ndim != 4:
        raise ValueError(f"{name} must be [B, H, rows, D], got {list(array.shape)}")
    array = np.asarray(array, np.float32)
    return array if array.strides[3] == array.itemsize else np.ascontiguousarray(array)


def _view(array: Floats) -> _Array:
    return _Array(array.ctypes.data, *(stride // array.itemsize for stride in array.strides[:3]))


def _described(query: Floats, key: Floats, tokens: NDArray, scale: float | None) -> _Attention:
    batch, heads, queries, width = query.shape
    factor = width**-0.5 if scale is None else scale
    return _Attention(batch, heads, queries, key.shape[2], width, tokens.shape[1], tokens.ctypes.data, factor, 0)


def _call(status: int) -> None:
    if status:
        raise ValueError(library().pk_message(status).decode())


def _runner(threads: int | None) -> _Runner:
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
    _call(
        library().pk_attention_forward(
            ctypes.byref(shape), *arrays, ctypes.c_void_p(maps.ctypes.data), ctypes.byref(runner)
        )
    )
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
    pointer = ctypes.c_void_p(None if maps is None else maps.ctypes.data)
    _call(
        library().pk_attention_backward(
            ctypes.byref(shape), *arrays, pointer, *(_view(grad) for grad in grads), ctypes.byref(runner)
        )
    )
    return grads[0], grads[1], grads[2]


def calibration_loss(
    maps: NDArray,
    *,
    normalize: bool = True,
    sigma: float = 0.5**0.5,
    suppress: int = 1,
    smooth: float = 1.0,
    bind: float = 1.0,
    separate: float = 1.0,
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Return the loss of each row, ``[B]``, and its gradient; see :func:`sdk.kernels.calibration_loss`.

    Args:
        maps: ``[B, 2S, h, w]``, converted to float32.
        normalize: min-max each map first.
        sigma: of the 3x3 Gaussian, in cells.
        suppress: how many times class maps are squared.
        smooth: added to both sides of the IoU's fraction.
        bind: weight of the bind terms.
        separate: weight of the separate-and-strengthen terms.
        threads: default one for each processor this program may use.
    """
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts, got {list(maps.shape)}")
    batch, count, height, width = maps.shape
    loss, grad = np.empty(batch, np.float32), np.empty(maps.shape, np.float32)
    options = _Calibration(batch, count // 2, height, width, int(normalize), sigma, suppress, smooth, bind, separate)
    runner = _runner(threads)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (maps, loss, grad)]
    _call(library().pk_calibration_loss(ctypes.byref(options), *pointers, ctypes.byref(runner)))
    return loss, grad
