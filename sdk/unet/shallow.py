"""A UNet cut in two: features that come up from its depth, and the first and last layers, which finish them.

From one step to the next the deep features change little (DeepCache, Ma et al., CVPR 2024). The cut is where their skip
connection is the shortest: before the last layer on the way up, whose other half comes straight from the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..views import lock_of


class Kept:
    """Where the deep features of the last forward pass are.

    Attributes:
        deep: ``[B, deep_width, h, w]``; ``None`` before the first.
    """

    deep: Tensor | None = None


class _Keeping(nn.Module):
    """A layer that keeps the deep features among what it takes."""

    def __init__(self, layer: nn.Module, width: int, kept: Kept) -> None:
        super().__init__()
        self.layer, self.width, self.kept = layer, width, kept

    def forward(self, hidden: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        self.kept.deep = hidden[:, : self.width]
        return self.layer(hidden, *arguments, **keywords)


@contextmanager
def keeping_deep(unet: Any) -> Iterator[Kept]:
    """Keep the deep features of a UNet's forward passes, a view's, in a block."""
    with lock_of(unet):
        resnets = unet.up_blocks[-1].resnets
        last = str(len(resnets) - 1)
        layer = resnets._modules[last]
        kept = Kept()
        resnets._modules[last] = _Keeping(layer, deep_width(unet), kept)
        try:
            yield kept
        finally:
            resnets._modules[last] = layer


def deep_width(unet: Any) -> int:
    """Channels of the deep features."""
    return int(unet.up_blocks[-1].resnets[-1].in_channels) - int(unet.conv_in.out_channels)


def shallow_prefix(unet: Any) -> str:
    """What the names of the attentions that a shallow pass computes begin with."""
    block = len(unet.up_blocks) - 1
    return f"up_blocks.{block}.attentions.{len(unet.up_blocks[-1].resnets) - 1}."


def shallow(
    unet: Any,
    sample: Tensor,
    timestep: Tensor,
    deep: Tensor,
    encoder_hidden_states: Tensor,
    timestep_cond: Tensor | None = None,
    added_cond_kwargs: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return what a UNet predicts, ``[B, C, h, w]``, with deep features of an earlier step.

    Args:
        unet: a ``UNet2DConditionModel``.
        sample: ``[B, C, h, w]``.
        timestep: a scalar, or ``[B]``.
        deep: of the earlier step, ``[B, deep_width, h, w]``.
        encoder_hidden_states: text states ``[B, T, C]``.
        timestep_cond: the guidance scale, for UNets that take it.
        added_cond_kwargs: pooled states and sizes, for UNets that take them.
    """
    embedded = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), timestep_cond)
    further = unet.get_aug_embed(
        emb=embedded, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=dict(added_cond_kwargs or {})
    )
    embedded = embedded if further is None else embedded + further
    embedded = embedded if unet.time_embed_act is None else unet.time_embed_act(embedded)
    block = unet.up_blocks[-1]
    hidden = block.resnets[-1](torch.cat([deep, unet.conv_in(sample)], 1), embedded)
    if getattr(block, "attentions", None):
        hidden = block.attentions[-1](hidden, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
    if unet.conv_norm_out is not None:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return unet.conv_out(hidden)
