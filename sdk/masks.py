"""Masks of concepts out of a base model's attention, as AttenCraft makes them (arXiv 2405.17965).

    R_k = minmax( S^4 . u_k^2 ),   u_k = the cross-attention map of concept k, resized to the side of S
    a pixel belongs to the concept (or the background) whose R is largest, if it leads by more than a margin

S is the mean self-attention matrix, rows are queries. The released code puts three more min-max steps in between; as
the rows of S sum to one, they change nothing. The matrix is never formed: S v is the mean over layers and heads of
attention with v as its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Smoother = Callable[[Tensor], Tensor]  # [N, K] -> [N, K], the product with S


def rescaled(maps: Tensor) -> Tensor:
    """Each map ``[..., h, w]`` shifted and scaled to [0, 1]; a constant one becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def resized(maps: Tensor, side: int) -> Tensor:
    """Bicubic ``[K, h, w]`` to ``[K, side, side]``; maps of that size stay as they are."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps[None], (side, side), mode="bicubic", align_corners=False)[0]


def self_attention(layers: Sequence[tuple[Tensor, Tensor, float]]) -> Smoother:
    """Return the product with the mean self-attention matrix of several layers.

    Args:
        layers: per layer query and key ``[heads, N, D]`` and the scale of the logits; all have the same N.
    """

    def smooth(values: Tensor) -> Tensor:
        total = torch.zeros_like(values)
        for query, key, scale in layers:
            shared = values.to(query)[None].expand(len(query), -1, -1)
            total += F.scaled_dot_product_attention(query, key, shared, scale=scale).to(values).sum(0)
        return total / sum(len(query) for query, _, _ in layers)

    return smooth


def refine(maps: Tensor, smooth: Smoother | None, power: int = 4) -> Tensor:
    """Sharpen cross-attention maps and let them flow along self-attention (R_k above).

    Args:
        maps: resized cross-attention maps ``[K, h, w]``.
        smooth: product with S; ``None`` leaves it out.
        power: of S.
    """
    spread = maps.square().flatten(1).T
    for _ in range(power if smooth is not None else 0):
        assert smooth is not None
        spread = smooth(spread)
    return rescaled(spread.T.unflatten(1, maps.shape[1:]))


def segment(refined: Tensor, margin: float = 0.1) -> Tensor:
    """Give each pixel to the map that leads there by more than ``margin``, or to none: ``[K, h, w]`` of 0 and 1."""
    best = refined.topk(2, 0)
    clear = best.values[0] - best.values[1] > margin
    return F.one_hot(best.indices[0], len(refined)).permute(2, 0, 1).to(refined) * clear


def against_floor(refined: Tensor, floor: float) -> Tensor:
    """Put a constant map behind the concepts' ``[S, h, w]``: what is weaker than ``floor`` is background."""
    return torch.cat([refined, torch.full_like(refined[:1], floor)])


def usable(masks: Tensor) -> bool:
    """Whether every concept's mask ``[S, h, w]`` covers at least 4 pixels and at most 90 % of the picture."""
    areas = masks.sum((1, 2))
    return bool(((areas >= 4) & (areas <= 0.9 * masks[0].numel())).all())


def js_divergence(maps: Tensor, masks: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two maps, each turned into a distribution by a softmax over its pixels.

    Args:
        maps: in [0, 1], ``[..., h, w]``; gradients flow into them.
        masks: likewise.

    Returns:
        ``[...]``, between 0 and 0.111 for 1024 pixels.
    """
    p, q = (x.flatten(-2).softmax(-1) for x in (maps, masks))
    middle = (p + q) / 2

    def entropy(x: Tensor) -> Tensor:
        return (x * (x + 1e-16).log()).sum(-1)

    return entropy(p) / 2 + entropy(q) / 2 - entropy(middle)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks ``[..., h, w]`` of 0 and 1; 1 if both are empty."""
    both, either = torch.minimum(a, b).sum((-2, -1)), torch.maximum(a, b).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of maps in [0, 1], ``[..., h, w]``: Wang et al. (2004) with 7x7 uniform windows.

    Sample covariances (49/48), K1 = 0.01, K2 = 0.03, mean over the windows that fit: what scikit-image computes.
    """
    stacked = torch.stack([a, b, a * a, b * b, a * b]).flatten(0, -3)[:, None]
    pooled = F.avg_pool2d(stacked, 7, stride=1)[:, 0].unflatten(0, (5, -1))
    mean_a, mean_b = pooled[0], pooled[1]
    variance_a, variance_b, covariance = (
        49 / 48 * (moment - product)
        for moment, product in zip(pooled[2:], (mean_a**2, mean_b**2, mean_a * mean_b), strict=True)
    )
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    return value.mean((-2, -1)).unflatten(0, a.shape[:-2]) if a.ndim > 2 else value.mean((-2, -1))[0]


def at_side(masks: Tensor, side: int) -> Tensor:
    """Masks ``[K, r, r]`` at another resolution: where most of a cell is covered."""
    if masks.shape[-1] == side:
        return masks
    if masks.shape[-1] < side:
        return F.interpolate(masks[None], (side, side), mode="nearest")[0]
    return (F.adaptive_avg_pool2d(masks, side) >= 0.5).to(masks)
