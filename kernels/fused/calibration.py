"""The calibration loss of DisenDiff (CVPR 2024, section 3.3), as its released code computes it.

From maps averaged over layers and heads: min-max to [0, 1]; 3x3 Gaussian with reflected borders; class maps
squared ("suppression"); then, with the soft IoU of products

    IoU(A, B) = (sum AB + 1) / (sum A + sum B - sum AB + 1),

    bind_i = 1 - IoU(stopgrad(C_i), M_i)        each modifier to its class word
    s&s_ij =     IoU(C_i, C_j)                  classes apart from each other
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpp
from ._backends import fastest_backend, resolve_backend
from .attention import attention_with_maps

_RANGE_EPSILON = 1e-8


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
    if maps.ndim != 4 or maps.shape[1] < 2 or maps.shape[1] % 2:
        raise ValueError(f"maps must be [B, 2S, h, w] with S >= 1 concepts, got {list(maps.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if sigma < 0 or suppress < 0:
        raise ValueError(f"sigma and suppress must not be negative, got {sigma} and {suppress}")
    if (resolve_backend(backend) or fastest_backend(maps)) == "cpp" and maps.dtype == torch.float32:
        loss = cpp.calibration(maps, normalize, sigma, suppress, smooth, bind, separate)
    else:
        loss = _reference(maps, normalize, sigma, suppress, smooth, bind, separate)
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
    results = [
        attention_with_maps(q, k, v, token_indices, backend=backend)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    mean = torch.stack([maps for _, maps in results]).mean(0)  # [B, 2S, N]
    side = int(mean.shape[-1] ** 0.5)
    if side * side != mean.shape[-1]:
        raise ValueError(f"the maps must be square, got {mean.shape[-1]} pixels")
    loss = calibration_loss(mean.unflatten(-1, (side, side)), backend=backend, **loss_arguments)
    return [out for out, _ in results], loss
