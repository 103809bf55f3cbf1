"""UNets that are told what to paint over: latents, a mask, and the latents of what stays, one behind the other.

Where nothing stays (drawing from words, a fit) the mask is one everywhere and the picture grey, as in their training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..views import lock_of


def paints_over(unet: Any, channels: int) -> bool:
    """Whether a UNet takes a mask and the latents of what stays, ``channels`` each, beside those that it denoises."""
    return int(unet.config.in_channels) == 2 * channels + 1


class _Told(nn.Module):
    """The first layer of a UNet, with the condition behind the latents."""

    def __init__(self, layer: nn.Module, behind: Tensor) -> None:
        super().__init__()
        self.layer, self._behind = layer, [behind]  # in a list, so that it is no buffer

    def forward(self, sample: Tensor) -> Tensor:
        behind = self._behind[0].to(sample)
        return self.layer(torch.cat([sample, behind.expand(len(sample), -1, -1, -1)], 1))


@contextmanager
def told(unet: Any, behind: Tensor | None) -> Iterator[None]:
    """Let a UNet, a view, have its condition in a block; ``None``: it takes none."""
    if behind is None:
        yield
        return
    with lock_of(unet):
        layer = unet._modules["conv_in"]
        unet._modules["conv_in"] = _Told(layer, behind)
        try:
            yield
        finally:
            unet._modules["conv_in"] = layer
