"""The public functions: arguments are checked here, a backend is chosen, and all computing is its own.

The definition of what is computed is impl/reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
        scale: factor on the logits; default ``D ** -0.5``.
        backend: see :func:`available_backends`; ``None`` takes the fastest one that is ready and takes these tensors:
            on a CPU the compiled library, or plain PyTorch; on a GPU Triton, or ``augmented_v`` beyond Triton's limits.

    Returns:
        ``out`` ``[B, H, N, D]`` in the dtype of ``query``, and ``maps`` ``[B, K, N]``, float32 (float64 for float64
        input): the softmax probability of token k at pixel n, mean over the heads.

    Raises:
        TypeError: something that is no tensor, or tensors of several types.
        ValueError: shapes that do not fit, an index out of range, or a named backend that is not ready or does not take
            these tensors.
    """
    out, columns = attention_with_columns(query, key, value, token_indices, scale=scale, backend=backend)
    return out, columns[:, 0] if columns.shape[1] == 1 else columns.mean(1)


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
    _check_attention(query, key, value, token_indices)
    chosen = attention_backend(backend, query, key.shape[2], token_indices.shape[1])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
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
            zero (no concept in its caption) has zero loss and zero gradient.
        options: what is computed; ``None``: the defaults.
        reduction: ``"none"`` for ``[B]``, ``"mean"`` or ``"sum"``.
        backend: see :func:`available_backends`; ``None`` takes the fastest one that is ready and takes these maps.
        **changes: single options, by the names of the fields of :class:`CalibrationOptions`: ``sigma=0.5``.

    Returns:
        The loss, ``[B]`` or a scalar, in the dtype of ``maps``.

    Raises:
        TypeError: an unknown option, or maps that are no tensor.
        ValueError: a shape or an argument that makes no sense, or a named backend that is not ready or does not take
            these maps.
    """
    if not isinstance(maps, Tensor):
        raise TypeError(f"maps must be a tensor, got {type(maps).__name__}")
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts, got {list(maps.shape)}")
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
        ValueError: as :func:`calibration_loss`.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    _check_columns(columns, height, width, options)
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


def _check_attention(query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor) -> None:
    for name, given in (("query", query), ("key", key), ("value", value), ("token_indices", token_indices)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    if (
        query.ndim != 4
        or key.shape != value.shape
        or query.shape[:2] != key.shape[:2]
        or query.shape[3] != key.shape[3]
    ):
        raise ValueError(
            "query must be [B, H, N, D] and key and value [B, H, T, D] with the same B, H and D, got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    if token_indices.ndim != 2 or token_indices.shape[0] != query.shape[0] or token_indices.dtype != torch.int64:
        raise ValueError(
            f"token_indices must be int64 [B, K] with B = {query.shape[0]}, got {token_indices.dtype} "
            f"{list(token_indices.shape)}"
        )
    if len({query.dtype, key.dtype, value.dtype}) > 1 or not query.is_floating_point():
        raise TypeError(
            f"query, key and value must have one floating-point type, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    # Only where the values are at hand: reading them from a GPU would wait for everything that is queued there.
    if token_indices.device.type == "cpu" and not torch.compiler.is_compiling() and token_indices.numel():
        low, high = token_indices.aminmax()
        if low < -1 or high >= key.shape[2]:
            raise ValueError(
                f"token_indices must be -1 or a position in 0..{key.shape[2] - 1}, got {int(low)}..{int(high)}"
            )
    devices = {x.device for x in (query, key, value, token_indices)}
    if len(devices) > 1:
        raise ValueError(f"query, key, value and token_indices must be on one device, got {sorted(map(str, devices))}")


def _check_columns(columns: Sequence[Tensor], height: int, width: int, options: CalibrationOptions) -> None:
    shapes = [list(c.shape) for c in columns]
    wanted = [c.ndim == 4 and c.shape[2] % 2 == 0 < c.shape[2] and c.shape[3] == height * width for c in columns]
    if not wanted or not all(wanted):
        raise ValueError(f"columns must be [B, G, 2S, {height * width}] for each layer, got {shapes}")
    if options.sigma > 0 and min(height, width) < 2:
        raise ValueError(f"maps of {height} x {width} cells have no neighbours to blur with: sigma must be 0")
