"""A loaded base model: its parts, what tells it from others, and what it recommends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline

from ..errors import BaseModelError
from .fingerprint import BaseIdentity
from .loading import identify, recommended_settings


class BaseModel:
    """A frozen pipeline that several packs may act on; nothing here changes it.

    Args:
        pipe: the pipeline; its parts are frozen and put in evaluation mode.
        name: what the user called it: a path, a Hub id or ``"bundled"``.

    Attributes:
        pipe: the pipeline.
        base: its identity, which packs remember.
        recommended: what the model recommends for ``fit`` and ``generate`` (``defaults.json`` in its folder).
    """

    def __init__(self, pipe: StableDiffusionPipeline, name: str | Path = "custom"):
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        self.pipe = pipe
        self.base = identify(pipe, name)
        self.recommended: dict[str, Any] = recommended_settings(name)

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    @property
    def resolution(self) -> int:
        """Side of the model's pictures in pixels."""
        return self.base.resolution

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Channels and side of the model's latents."""
        return self.pipe.unet.config.in_channels, self.resolution // self.pipe.vae_scale_factor

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels: a cell of the coarsest level of the UNet."""
        return self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)

    @property
    def recommended_guidance(self) -> float:
        """The guidance scale that the model recommends, else 6 (paper)."""
        return float(self.recommended.get("generate", {}).get("guidance_scale", 6.0))

    def training_scheduler(self) -> DDPMScheduler:
        """Return the noise schedule that the model was trained with."""
        return DDPMScheduler.from_config(self.pipe.scheduler.config)

    def sampling_scheduler(self) -> DDIMScheduler:
        """Return DDIM on the model's own noise schedule, as the paper samples."""
        return DDIMScheduler.from_config(
            self.pipe.scheduler.config,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="leading",
        )

    def check_base(self, pack: Any) -> None:
        """Raise :class:`BaseModelError` if a pack belongs to another base model."""
        needed: BaseIdentity = pack.base
        difference = self.base.difference(needed)
        if difference is not None:
            raise BaseModelError(
                f"the pack was made for the base model {needed.name!r}, not for {self.base.name!r}: {difference}; "
                "load that model, or fit the picture again on this one"
            )


def best_device() -> torch.device:
    """Return CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
