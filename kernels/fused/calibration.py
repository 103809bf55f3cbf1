"""The calibration loss of DisenDiff (CVPR 2024, section 3.3), as its released code computes it.

From maps averaged over layers and heads: min-max to [0, 1]; 3x3 Gaussian with reflected borders; class maps
squared ("suppression"); then, with the soft IoU of products

    IoU(A, B) = (sum AB + 1) / (sum A + sum B - sum AB + 1),

    bind_i = 1 - IoU(stopgrad(C_i), M_i)        each modifier to its class word
    s&s_ij =     IoU(C_i, C_j)                  classes apart from each other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpp
from ._backends import fastest_backend, resolve_backend
from .attention import attention_with_columns

_RANGE_EPSILON = 1e-8


@dataclass(frozen=True)
class CalibrationOptions:
    """The arguments of :func:`calibration_loss` that say what is computed, with its defaults."""

    normalize: bool = True
    sigma: float = 0.5**0.5
    suppress: int = 1
    smooth: float = 1.0
    bind: float = 1.0
    separate: float = 1.0

    def __post_init__(self) -> None:
        if self.sigma < 0 or self.suppress < 0:
            raise ValueError(f"sigma and suppress must not be negative, got {self.sigma} and {self.suppress}")


def calibration_loss(
    maps: Tensor,
    *,
    normalize: bool = True,
    sigma: float = 0.5**0.5,
    suppress: int = 1,
    smooth: float = 1.0,
    bind: float = 1.0,
    separate: float = 1.0,
    reduction: str = "none",
    backend: str | None = None,
) -> Tensor:
    """Compute the loss of each row from its token maps.

    Args:
        maps: float ``[B, 2S, h, w]``, order modifier_1, class_1, modifier_2, class_2, ... A row whose maps are all
            zero (no concept in its caption) has zero loss and zero gradient.
        normalize: min-max each map to [0, 1] first. Not in the paper; without it the loss saturates.
        sigma: standard deviation of the 3x3 Gaussian in map cells; 0 leaves it out. The default is what the
            released code's "0.5" amounts to.
        suppress: how many times class maps are squared (paper: once; 0 leaves it out).
        smooth: constant added to both sides of the IoU's fraction.
        bind: weight of the bind terms (summed over concepts).
        separate: weight of the separate-and-strengthen terms (mean over pairs; none for one concept).
        reduction: ``"none"`` for ``[B]``, ``"mean"`` or ``"sum"``.
        backend: see :func:`available_backends`; ``"augmented_v"`` has no loss of its own and takes the reference's.

    Returns:
        The loss, ``[B]`` or a scalar, in the dtype of ``maps``.

    Raises:
        ValueError: a shape or an argument that makes no sense.
    """
    if not isinstance(maps, Tensor):
        raise TypeError(f"maps must be a tensor, got {type(maps).__name__}")
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts, got {list(maps.shape)}")
    options = CalibrationOptions(normalize, sigma, suppress, smooth, bind, separate)
    height, width = maps.shape[2:]
    return columns_loss([maps.flatten(2)[:, None]], height, width, options, reduction=reduction, backend=backend)


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
        height: of the maps.
        width: of the maps.
        options: what is computed.
        reduction: see :func:`calibration_loss`.
        backend: likewise.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    first = columns[0]
    chosen = resolve_backend(backend) or fastest_backend(first)
    if chosen == "triton" and first.dtype == torch.float32:
        from . import triton_ops

        loss = triton_ops.calibration(list(columns), height, width, *astuple(options))
    else:
        maps = torch.stack([c.mean(1) for c in columns]).mean(0) if len(columns) > 1 else first.mean(1)
        maps = maps.unflatten(-1, (height, width))
        fits = chosen == "cpp" and maps.dtype == torch.float32
        loss = cpp.calibration(maps, *astuple(options)) if fits else _reference(maps, *astuple(options))
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _reference(
    maps: Tensor, normalize: bool, sigma: float, suppress: int, smooth: float, bind: float, separate: float
) -> Tensor:
    processed = _blur(_min_max(maps) if normalize else maps, sigma)
    modifiers, classes = processed[:, 0::2], processed[:, 1::2]  # [B, S, h, w]
    for _ in range(suppress):
        classes = classes * classes
    loss = bind * (1 - soft_iou(classes.detach(), modifiers, smooth)).sum(1)
    concepts = classes.shape[1]
    if concepts > 1:
        first, second = torch.triu_indices(concepts, concepts, 1, device=maps.device)
        loss = loss + separate * soft_iou(classes[:, first], classes[:, second], smooth).mean(1)
    # A row without concepts: its maps are zero, which would leave a constant.
    return torch.where(maps.detach().abs().amax((1, 2, 3)) > 0, loss, torch.zeros_like(loss))


def soft_iou(a: Tensor, b: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft intersection over union of maps ``[..., h, w]``, by products; returns ``[...]``."""
    intersection = (a * b).sum((-1, -2))
    return (intersection + smooth) / (a.sum((-1, -2)) + b.sum((-1, -2)) - intersection + smooth)


def _min_max(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low + _RANGE_EPSILON)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return maps
    edge = torch.exp(torch.tensor(-0.5 / sigma**2, dtype=torch.float64))
    taps = torch.stack([edge, torch.ones_like(edge), edge])
    taps = (taps / taps.sum()).to(maps)
    kernel = torch.outer(taps, taps)[None, None]
    flat = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(flat, kernel)[:, 0].unflatten(0, maps.shape[:2])


def calibrated_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    token_indices: Tensor,
    *,
    backend: str | None = None,
    **loss_arguments,
) -> tuple[list[Tensor], Tensor]:
    """Attend in several layers and compute the calibration loss of their mean maps.

    Args:
        queries: one ``[B, H, N, D]`` per layer, ``N`` a square number, the same in all layers.
        keys: one ``[B, H, T, D]`` per layer.
        values: one ``[B, H, T, D]`` per layer.
        token_indices: int64 ``[B, 2S]``, modifier and class positions; ``-1`` in rows without a concept.
        backend: see :func:`attention_with_maps`.
        **loss_arguments: passed on to :func:`calibration_loss`.

    Returns:
        The layers' outputs, and the loss.
    """
    reduction = loss_arguments.pop("reduction", "none")
    options = CalibrationOptions(**loss_arguments)
    if not len(queries) == len(keys) == len(values) > 0:
        raise ValueError(
            "queries, keys and values must hold one tensor per layer, got "
            f"{len(queries)}, {len(keys)} and {len(values)}"
        )
    results = [
        attention_with_columns(q, k, v, token_indices, backend=backend)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    side = square_side([columns for _, columns in results])
    loss = columns_loss([c for _, c in results], side, side, options, reduction=reduction, backend=backend)
    return [out for out, _ in results], loss


def square_side(columns: Sequence[Tensor]) -> int:
    """Return the side of the square maps whose columns these are; they must be of one size."""
    pixels = {c.shape[-1] for c in columns}
    side = int(max(pixels) ** 0.5)
    if pixels != {side * side}:
        raise ValueError(f"maps must be square and of one size, got {sorted(pixels)} pixels")
    return side
