"""A UNet that leaves out what a step can do without, in the place of the whole one in diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..rules.speed import Speed
from .attention import CachedKeyValueProcessor
from .shallow import Kept, keeping_deep, shallow


class ShortenedUNet(nn.Module):
    """What a pipeline calls in place of a UNet; in every other respect it is that UNet.

    Args:
        unet: a view.
        kept: its deep features, see :func:`sdk.unet.shallow.keeping_deep`.
        speed: what is left out.
        guided: whether the first half of a batch are negative prompts.
        levels: of noise, in all.
    """

    def __init__(self, unet: Any, kept: Kept, speed: Speed, guided: bool, levels: int) -> None:
        super().__init__()
        self.unet, self.speed, self.guided = unet, speed, guided
        self._kept = kept
        self._calls, self._levels = 0, levels

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("unet"), name)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        **others: Any,
    ) -> tuple[Tensor]:
        """Return the prediction, ``[B, C, h, w]``; without guidance both halves are that of the prompts."""
        alone = self.guided and not self.speed.guided(float(timestep), self._levels)
        half = len(sample) // 2 if alone else 0
        sample, states = sample[half:], encoder_hidden_states[half:]
        further = None if added_cond_kwargs is None else {n: v[half:] for n, v in added_cond_kwargs.items()}
        scale = None if timestep_cond is None else timestep_cond[half:]
        for processor in self.unet.attn_processors.values():
            if isinstance(processor, CachedKeyValueProcessor):
                processor.skipped = half
        deep = self._kept.deep
        whole = self._calls % self.speed.every == 0
        self._calls += 1
        if whole or deep is None:
            (found,) = self.unet(
                sample,
                timestep,
                encoder_hidden_states=states,
                timestep_cond=scale,
                added_cond_kwargs=further,
                **(others | {"return_dict": False}),
            )
        else:
            found = shallow(self.unet, sample, timestep, deep[-len(sample) :], states, scale, further)
        return (torch.cat([found, found]),) if half else (found,)


@contextmanager
def shortened(unet: Any, speed: Speed, guided: bool, levels: int) -> Iterator[Any]:
    """What stands for a UNet, a view, in one drawing; see :class:`ShortenedUNet`."""
    if not speed.shortens:
        yield unet
        return
    with keeping_deep(unet) as kept:
        yield ShortenedUNet(unet, kept, speed, guided, levels)
