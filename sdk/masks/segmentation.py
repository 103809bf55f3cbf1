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


def at_side(masks: Tensor, side: int) -> Tensor:
    """Masks ``[K, r, r]`` at another resolution: where most of a cell is covered."""
    if masks.shape[-1] == side:
        return masks
    if masks.shape[-1] < side:
        return F.interpolate(masks[None], (side, side), mode="nearest")[0]
    return (F.adaptive_avg_pool2d(masks, side) >= 0.5).to(masks)
