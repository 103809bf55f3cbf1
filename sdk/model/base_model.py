"""A loaded base model: its parts, what tells it from others, and what it recommends."""

from __future__ import annotations

import copy
from math import lcm
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, StableDiffusionPipeline

from ..errors import BaseModelError, InputError
from ..rules.arguments import shown
from .fingerprint import BaseIdentity
from .loading import identify, recommended_settings


class BaseModel:
    """A frozen pipeline that several packs may act on; nothing here changes it.

    Args:
        pipe: the pipeline; its parts are frozen and put in evaluation mode.
        name: what the user called it: a path, a Hub id or ``"bundled"``.

    Raises:
        InputError: something else than a pipeline.

    Attributes:
        pipe: the pipeline.
        base: its identity, which packs remember.
        recommended: what the model recommends for ``fit`` and ``generate`` (``defaults.json`` in its folder).
    """

    def __init__(self, pipe: StableDiffusionPipeline, name: str | Path = "custom"):
        if not isinstance(pipe, DiffusionPipeline):
            raise InputError(f"a Stable Diffusion pipeline is needed, got {shown(pipe)}; load one by from_pretrained")
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        self.pipe = pipe
        self._loaded_scheduler = pipe.scheduler
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
        """Sides of pictures must be multiples of this many pixels: a cell of the coarsest level of the UNet.

        And of 8, on which diffusers insists whatever the model.
        """
        return lcm(8, self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1))

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

    def drawing_scheduler(self) -> Any:
        """Return what a call draws with, its own: :meth:`sampling_scheduler`, or a copy of one that a user set since.

        That is, of ``pipe.scheduler`` if it is another object than the model was loaded with.
        """
        chosen = self.pipe.scheduler
        return self.sampling_scheduler() if chosen is self._loaded_scheduler else copy.deepcopy(chosen)

    def check_base(self, pack: Any) -> None:
        """Raise :class:`BaseModelError` if a pack belongs to another base model, or its weights do not fit this one."""
        needed: BaseIdentity = pack.base
        difference = self.base.difference(needed)
        if difference is not None:
            raise BaseModelError(
                f"the pack was made for the base model {needed.name!r}, not for {self.base.name!r}: {difference}; "
                "load that model, or fit the picture again on this one"
            )
        wrongs = [self._misfit(each) for each in (pack, *getattr(pack, "parts", ()))]
        wrong = next((each for each in wrongs if each is not None), None)
        if wrong is not None:
            raise BaseModelError(f"the pack does not fit the base model {self.base.name!r}: {wrong}; make it again")

    def _misfit(self, pack: Any) -> str | None:
        """What of a pack has no place in the base model, which a pack that was read from disk does not have."""
        rows = tuple(pack.embeddings.shape)
        if rows != (len(pack.concepts), self.base.context):
            return f"embeddings of shape {rows} for {len(pack.concepts)} concepts of width {self.base.context}"
        return pack.misfit(self.pipe.unet)


def usable_device(device: Any) -> torch.device:
    """Return a device by name; ``None``: the best.

    Raises:
        InputError: no device, or one that this machine or this torch does not have.
    """
    if device is None:
        return best_device()
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"device must be one that is here, such as 'cpu', got {shown(device)} ({said})") from error
    if chosen.type == "meta":
        raise InputError("device must be one that computes, such as 'cpu', got 'meta'")
    return chosen


def usable_dtype(dtype: Any, device: torch.device) -> torch.dtype:
    """Return a dtype of weights; ``None``: float16 on CUDA, float32 elsewhere.

    Raises:
        InputError: something else.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype must be a torch dtype such as torch.float16, got {shown(dtype)}")
    return dtype


def best_device() -> torch.device:
    """Return CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
