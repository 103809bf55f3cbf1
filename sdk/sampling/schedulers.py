"""Schedulers of a call: what a user set is used as it is, from the step on that a drawing begins with."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

_NEEDED = ("set_timesteps", "step", "init_noise_sigma", "order")


class LastSteps:
    """A scheduler without its first steps, for diffusers' pipelines; everything else is the scheduler's own.

    Args:
        scheduler: of one call.
        skipped: how many steps are left out.
    """

    def __init__(self, scheduler: Any, skipped: int):
        self._scheduler = scheduler
        self._first = skipped * scheduler.order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def set_timesteps(self, *arguments: Any, **keywords: Any) -> None:
        """Choose the timesteps as the scheduler does, and begin later."""
        self._scheduler.set_timesteps(*arguments, **keywords)
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self._first)

    @property
    def timesteps(self) -> Tensor:
        """Those of the last steps."""
        return self._scheduler.timesteps[self._first :]


def check_scheduler(scheduler: Any, *, from_picture: bool) -> None:
    """Raise :class:`InputError` for a scheduler that Stable Diffusion cannot be sampled with.

    Args:
        scheduler: the model's, or one that a user set.
        from_picture: whether the drawing starts from a picture.
    """
    needed = (*_NEEDED, "add_noise") if from_picture else _NEEDED
    missing = [name for name in needed if not hasattr(scheduler, name)]
    if missing:
        what = "start from a picture" if missing == ["add_noise"] else "sample this model"
        kind = type(scheduler).__name__
        raise InputError(f"{kind} cannot {what} (it has no {missing[0]}); set pipe.scheduler to another, such as DDIM")


def takes_eta(scheduler: Any) -> bool:
    """Whether a scheduler's steps have a share of fresh noise that can be set."""
    return "eta" in inspect.signature(scheduler.step).parameters


def noised(scheduler: Any, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Return clean latents at the noise level of the first step that is done, as a pipeline wants its start.

    Args:
        scheduler: its timesteps are set.
        clean: ``[1, C, h, w]``, in the type and on the device of the UNet.
        generators: one per picture.
    """
    noise = torch.cat(
        [torch.randn(clean.shape, generator=g, device=g.device, dtype=torch.float32).to(clean) for g in generators]
    )
    level = scheduler.timesteps[:1].expand(len(generators))
    found = scheduler.add_noise(clean.expand(len(generators), -1, -1, -1), noise, level.to(clean.device))
    scale = scheduler.init_noise_sigma  # the pipeline will multiply by it
    return found if scale == 1 else found / scale
