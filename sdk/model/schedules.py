"""Noise levels of a base model: what it was trained with, and how it is sampled.

Models say by their scheduler's configuration how they want to be sampled. Most take any sampler on their levels, and
then DDIM is used, as the papers do. Two kinds do not: fine-tunes whose last level is noise alone (Lin et al., WACV
2024) must start there, and distilled models were trained for a few steps of one sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from ..errors import BaseModelError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
_LEVELS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
_NAMED = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler, "euler": EulerDiscreteScheduler}
_ALL_BUT = 1 - 2.0**-20
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


class DDIMScheduler(diffusers.DDIMScheduler):
    """diffusers' sampler under its name, finite also where the first step starts from noise alone.

    There all of a step's noise is fresh (eta 1), and what is left for the old one is a difference of equal numbers: on
    some processors just below 0, whose root is NaN.
    """

    def _get_variance(self, timestep: int, prev_timestep: int) -> torch.Tensor:
        variance = super()._get_variance(timestep, prev_timestep)
        if self.alphas_cumprod[timestep] > 0:
            return variance
        before = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        return (_ALL_BUT * (1 - before)).minimum(variance)


@dataclass(frozen=True)
class Sampling:
    """What a model recommends for drawing.

    Attributes:
        steps: of the sampler.
        guidance_scale: 1: without guidance.
        guidance_rescale: see :meth:`sdk.Personalizer.generate`.
    """

    steps: int = 50
    guidance_scale: float = 6.0
    guidance_rescale: float = 0.0


def check_scheduler(scheduler: Any, name: str) -> None:
    """Raise :class:`BaseModelError` if a model was trained in another way than by noise of such levels."""
    config = scheduler.config
    kind = type(scheduler).__name__
    if any(config.get(key) is None for key in _LEVELS) or "FlowMatch" in kind:
        raise BaseModelError(f"the base model {name!r} has other noise levels than Stable Diffusion's ({kind})")
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise BaseModelError(
            f"the base model {name!r} predicts {predicted!r}; known are models that predict {', '.join(PREDICTIONS)}"
        )


def training_scheduler(scheduler: Any) -> DDPMScheduler:
    """Return the noise levels that a model was trained with."""
    return DDPMScheduler.from_config(scheduler.config)


def zero_terminal_snr(scheduler: Any) -> bool:
    """Whether the last level is noise alone."""
    return bool(scheduler.config.get("rescale_betas_zero_snr", False))


def sampling_scheduler(scheduler: Any) -> DDIMScheduler:
    """Return DDIM on a model's own levels, as the paper samples; it starts at the last level where that matters."""
    spacing = "trailing" if zero_terminal_snr(scheduler) else "leading"
    return DDIMScheduler.from_config(
        scheduler.config,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing=spacing,
    )


def named_scheduler(name: str, scheduler: Any) -> Any:
    """Return a sampler on a model's own levels.

    Args:
        name: one of :data:`sdk.rules.drawing.SCHEDULERS`.
        scheduler: the model's.
    """
    plain = sampling_scheduler(scheduler)
    return plain if name == "ddim" else _NAMED[name].from_config(plain.config)


def guidance_condition(unet: Any, guidance_scale: float, device: Any) -> torch.Tensor | None:
    """Return what a latent consistency model's UNet takes for the guidance scale, ``[1, D]``; ``None``: nothing."""
    width = unet.config.get("time_cond_proj_dim")
    if width is None:
        return None
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1)))
    angles = 1000 * (guidance_scale - 1) * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None].to(device)


def distilled(scheduler: Any, unet: Any) -> Sampling | None:
    """Return what a distilled model recommends, or ``None`` for any other.

    Latent consistency models are known by their scheduler, or by a UNet that takes the guidance scale; Turbo and
    Lightning by Euler's from the last level on for a model that predicts noise.
    """
    if unet.config.get("time_cond_proj_dim") is not None:
        return Sampling(4, 8.5)
    kind, config = type(scheduler).__name__, scheduler.config
    if kind in _FEW_STEPS:
        return Sampling(4, 1.0)
    euler = kind.startswith("Euler") and config.get("timestep_spacing") == "trailing"
    if euler and config.get("prediction_type", "epsilon") == "epsilon" and not zero_terminal_snr(scheduler):
        return Sampling(4, 1.0)
    return None
