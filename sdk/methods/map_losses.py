"""Losses on where the concepts' words look, beside calibration: kept off what is not theirs, kept apart.

Both are of the maps of the 16x16 cross-attentions, mean over layers and heads; :mod:`sdk.methods.disendiff` has them as
settings.
"""

from __future__ import annotations

import torch
from torch import Tensor

EARLY = 900  # of 1000; at noisier timesteps nothing is settled that a word could look at (MIFO: t < 900)
_LEAST = 1e-6  # of a map that sums to one; what is below counts as this


def outside_loss(maps: Tensor, masks: Tensor, named: Tensor) -> Tensor:
    """Mean squared attention of words outside of their concept's mask, per row ``[B]`` (MIFO, punish only).

    The larger what a word looks at elsewhere is beside what it looks at most, the larger the loss; how it looks within
    its mask is left free. MIFO squares raw maps; here each is divided by its maximum first, as raw maps of one token of
    77 are so small that the loss would count for nothing.

    Args:
        maps: of modifier and class word of each concept in turn, ``[B, 2S, h, w]``.
        masks: of the concepts, float ``[B, S, h, w]`` in {0, 1}.
        named: 1 where a row names a concept, else 0, float ``[B, S]``; without a mask a concept does not count.
    """
    scaled = maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-8)
    outside = (1 - masks)[:, :, None]  # [B, S, 1, h, w]
    words = (scaled.unflatten(1, (-1, 2)).square() * outside).sum((-2, -1)) / outside.sum((-2, -1)).clamp(min=1)
    counts = named * (masks.amax((-2, -1)) > 0)
    return (words.mean(-1) * counts).sum(1) / counts.sum(1).clamp(min=1)


def closeness(maps: Tensor, named: Tensor) -> Tensor:
    """Minus the mean over pairs of concepts of the symmetric divergence of their maps, per row ``[B]`` (MOSAIC).

    A concept's map is the sum of its modifier's and its class word's, made to sum to one; cells below a millionth count
    as that, which bounds the loss.

    Args:
        maps: ``[B, 2S, h, w]``, see :func:`outside_loss`.
        named: float ``[B, S]``; pairs of concepts that a row names both count, without any the loss is 0.
    """
    phrases = maps.unflatten(1, (-1, 2)).sum(2).flatten(2)  # [B, S, N]
    shares = (phrases / phrases.sum(-1, keepdim=True).clamp(min=1e-8)).clamp(min=_LEAST)
    logs = shares.log()
    own = (shares * logs).sum(-1)  # [B, S]
    cross = shares @ logs.transpose(1, 2)  # [B, S, S]: of P_i log P_j
    one_way = own[:, :, None] - cross  # KL(P_i, P_j)
    both = (named[:, :, None] * named[:, None, :]) * (1 - torch.eye(named.shape[1]).to(named))
    divergence = (one_way + one_way.transpose(1, 2)) / 2 * both
    return -divergence.sum((1, 2)) / both.sum((1, 2)).clamp(min=1)
