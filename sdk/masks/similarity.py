"""How alike two maps or masks are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
