"""The public functions: arguments are checked here, a backend is chosen, and all computing is its own.

The definition of what is computed is impl/reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .checks import check_attention, check_blur, check_columns, check_maps, check_scale, check_token_values
from .impl.long_attention import LongAttention, takes
from .impl.registry import attention_backend, loss_backend
from .options import CalibrationOptions

_DEFAULTS = CalibrationOptions()
_REDUCTIONS = ("none", "mean", "sum")


def attention_with_maps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_indices: Tensor,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend, and return the maps of the tracked tokens.

    Args:
        query: ``[B, H, N, D]``, floating point.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        token_indices: int64 ``[B, K]``, positions in ``0..T-1``; ``-1`` tracks nothing and gives a map of zeros.
        scale: factor on the logits, above zero and finite in float32; default ``D ** -0.5``.
        backend: see :func:`available_backends`; ``None`` takes the fastest one that is ready and takes these tensors:
            on a CPU the compiled library, or plain PyTorch; on a GPU Triton, or ``augmented_v`` beyond Triton's limits.

    Returns:
        ``out`` ``[B, H, N, D]`` in the dtype of ``query``, and ``maps`` ``[B, K, N]``, float32 (float64 for float64
        input): the softmax probability of token k at pixel n, mean over the heads. NaN and infinities are where plain
        PyTorch has them, with every backend.

    Raises:
        TypeError: something that is no tensor, tensors of several types, or a scale that is no number.
        ValueError: shapes that do not fit, an index or a scale out of range, or a named backend that is not ready or
            does not take these tensors.
    """
    out, columns = attention_with_columns(query, key, value, token_indices, scale=scale, backend=backend)
    return out, columns[:, 0] if columns.shape[1] == 1 else columns.mean(1)


def attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """Attend without maps: as stock attention does, but for its gradient over many keys in bfloat16 on a CPU.

    That is the compiled library's where the processor multiplies pairs of bfloat16 (AMX, AVX512-BF16), N and T are
    multiples of 32 and T is at least 512.

    Args:
        query: ``[B, H, N, D]``.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        scale: factor on the logits; default ``D ** -0.5``.
    """
    if takes(query, key, value):
        factor = query.shape[-1] ** -0.5 if scale is None else float(scale)
        check_scale(factor)
        return LongAttention.apply(query, key, value, factor)
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def attention_with_columns(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_indices: Tensor,
    *,
    scale: float | None = None,
    detach_first: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend as :func:`attention_with_maps` does, but leave the mean over heads to whoever uses the maps.

    Args:
        query: see :func:`attention_with_maps`, as for the rest.
        key: likewise.
        value: likewise.
        token_indices: likewise.
        scale: likewise.
        detach_first: whether the first key passes no gradient to ``key`` and ``value`` (as in Custom Diffusion).
        backend: likewise.

    Returns:
        ``out``, and ``columns`` ``[B, G, K, N]``, whose mean over G is the map. G is the number of heads where each
        head is computed by a program of its own (Triton), and 1 where the backend has averaged them.

    Raises:
        TypeError: as :func:`attention_with_maps`.
        ValueError: likewise.
    """
    for name, given in (("query", query), ("key", key), ("value", value), ("token_indices", token_indices)):
        _check_tensor(name, given)
    check_attention(query, key, value, token_indices)
    check_token_values(token_indices, key.shape[2])
    if scale is None:
        scale = query.shape[-1] ** -0.5
    else:
        check_scale(scale)
    chosen = attention_backend(backend, query, key.shape[2], token_indices.shape[1], (key, value))
    return chosen.attention(query, key, value, token_indices, scale, detach_first)


def calibration_loss(
    maps: Tensor,
    options: CalibrationOptions | None = None,
    *,
    reduction: str = "none",
    backend: str | None = None,
    **changes: Any,
) -> Tensor:
    """Compute the loss of each row from its token maps.

    Args:
        maps: float ``[B, 2S, h, w]``, order modifier_1, class_1, modifier_2, class_2, ... A row whose maps are all
            zero (no concept in its caption) has zero loss and zero gradient; one with a NaN or an infinity has a loss
            of NaN.
        options: what is computed; ``None``: the defaults.
        reduction: ``"none"`` for ``[B]``, ``"mean"`` or ``"sum"``.
        backend: see :func:`available_backends`; ``None`` takes the fastest one that is ready and takes these maps.
        **changes: single options, by the names of the fields of :class:`CalibrationOptions`: ``sigma=0.5``.

    Returns:
        The loss, ``[B]`` or a scalar, in the dtype of ``maps``.

    Raises:
        TypeError: an unknown option, one of another type, or maps that are no tensor of floating-point numbers.
        ValueError: a shape or an argument that makes no sense, or a named backend that is not ready or does not take
            these maps.
    """
    _check_tensor("maps", maps)
    check_maps(maps)
    height, width = maps.shape[2:]
    chosen = (options or _DEFAULTS).with_changes(**changes)
    return columns_loss([maps.flatten(2)[:, None]], height, width, chosen, reduction=reduction, backend=backend)


def columns_loss(
    columns: Sequence[Tensor],
    height: int,
    width: int,
    options: CalibrationOptions,
    *,
    reduction: str = "none",
    backend: str | None = None,
) -> Tensor:
    """Compute :func:`calibration_loss` of the mean over layers and heads; with Triton in one launch.

    Args:
        columns: ``[B, G, 2S, height * width]`` of each layer, from :func:`attention_with_columns`.
        height: of the maps, in cells.
        width: of the maps, in cells.
        options: what is computed.
        reduction: see :func:`calibration_loss`.
        backend: likewise.

    Returns:
        The loss, ``[B]`` or a scalar, in the dtype of the columns.

    Raises:
        TypeError: as :func:`calibration_loss`.
        ValueError: likewise.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    for given in columns:
        _check_tensor("columns", given)
    check_columns(columns, height, width)
    check_blur(options, height, width)
    loss = loss_backend(backend, columns, height, width).loss(columns, height, width, options)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def calibrated_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    token_indices: Tensor,
    options: CalibrationOptions | None = None,
    *,
    reduction: str = "none",
    backend: str | None = None,
    **changes: Any,
) -> tuple[list[Tensor], Tensor]:
    """Attend in several layers and compute the calibration loss of their mean maps.

    Args:
        queries: one ``[B, H, N, D]`` per layer, ``N`` a square number, the same in all layers.
        keys: one ``[B, H, T, D]`` per layer.
        values: one ``[B, H, T, D]`` per layer.
        token_indices: int64 ``[B, 2S]``, modifier and class positions; ``-1`` in rows without a concept.
        options: of the loss; ``None``: the defaults.
        reduction: see :func:`calibration_loss`.
        backend: of the attention and of the loss; see :func:`attention_with_maps`.
        **changes: single options of the loss, see :func:`calibration_loss`.

    Returns:
        The layers' outputs, and the loss.

    Raises:
        TypeError: as :func:`attention_with_maps` and :func:`calibration_loss`.
        ValueError: likewise, and unequal numbers of layers.
    """
    chosen = (options or _DEFAULTS).with_changes(**changes)
    if not len(queries) == len(keys) == len(values) > 0:
        raise ValueError(
            "queries, keys and values must hold one tensor per layer, got "
            f"{len(queries)}, {len(keys)} and {len(values)}"
        )
    results = [
        attention_with_columns(q, k, v, token_indices, backend=backend)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    columns = [found for _, found in results]
    side = square_side(columns)
    loss = columns_loss(columns, side, side, chosen, reduction=reduction, backend=backend)
    return [out for out, _ in results], loss


def square_side(columns: Sequence[Tensor]) -> int:
    """Return the side, in cells, of the square maps whose columns ``[..., N]`` these are.

    Raises:
        ValueError: maps that are not square, or not of one size.
    """
    pixels = {c.shape[-1] for c in columns}
    side = int(max(pixels) ** 0.5)
    if pixels != {side * side}:
        raise ValueError(f"maps must be square and of one size, got {sorted(pixels)} pixels")
    return side


def _check_tensor(name: str, given: Any) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
