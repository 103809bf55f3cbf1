"""Which words describe a concept best: those under which the base model predicts its picture best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor

from .text import TextConditioner

_TIMESTEPS = (400, 550, 700, 850)  # colours are decided while there is much noise
_ROWS = 16  # of one forward pass


@torch.no_grad()
def best_description(
    unet: UNet2DConditionModel,
    conditioner: TextConditioner,
    scheduler: SchedulerMixin,
    noun: str,
    candidates: Sequence[str],
    latents: Tensor,
    mask: Tensor,
) -> str:
    """Return the candidate with the smallest denoising error in ``"photo of a {candidate} {noun}"``.

    The same noise is used for all, at four of 1000 noise levels.

    Args:
        unet: of the base model.
        conditioner: encodes captions.
        scheduler: noise schedule of the training.
        noun: the concept's class.
        candidates: words to choose from, such as ``"striped red"``.
        latents: clean latents of a picture of the concept, ``[C, h, w]``.
        mask: where the error counts, ``[1, h, w]``.
    """
    device = unet.device
    states = conditioner.encode(conditioner.tokenize([f"photo of a {words} {noun}" for words in candidates]))
    latents, mask = latents.to(device), mask.to(device)
    errors = torch.zeros(len(candidates), device=device)
    for timestep in _TIMESTEPS:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep)).to(device)
        t = torch.tensor([timestep], device=device)
        noisy = scheduler.add_noise(latents[None], noise[None], t)
        target = noise[None]
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents[None], noise[None], t)
        for rows, part in zip(torch.arange(len(candidates)).split(_ROWS), states.split(_ROWS), strict=True):
            repeated = noisy.expand(len(part), -1, -1, -1).to(unet.dtype)
            prediction = unet(repeated, t, part.to(unet.dtype)).sample.float()
            errors[rows.to(device)] += ((prediction - target).square() * mask).sum((1, 2, 3))
    return candidates[int(errors.argmin())]
