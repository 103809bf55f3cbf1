"""A loaded base model: its parts, what tells it from others, and what it recommends."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, SchedulerMixin
from torch import Tensor

from ..errors import BaseModelError, InputError
from ..families import Family, TextPart, family_of
from ..memory.budget import AUTO, checked_memory, left_of
from ..rules.arguments import shown
from ..rules.drawing import check_scheduler_name
from ..unet.inpainting import paints_over
from .fingerprint import BaseIdentity
from .latents import Coding, coding_for, condition
from .loading import identify, recommended_settings
from .schedules import (
    Sampling,
    check_scheduler,
    distilled,
    named_scheduler,
    sampling_scheduler,
    training_scheduler,
    zero_terminal_snr,
)
from .text import TextConditioner


class BaseModel:
    """A frozen pipeline that several packs may act on; nothing here changes it.

    Args:
        pipe: the pipeline; its parts are frozen and put in evaluation mode.
        name: what the user called it: a path, a Hub id or ``"bundled"``.

    Raises:
        InputError: something else than a pipeline.

    Attributes:
        pipe: the pipeline.
        family: which kind of base model it is.
        base: its identity, which packs remember.
        distilled: what it recommends if it was trained for a few steps of its own sampler, else ``None``.
        recommended: what the model recommends for ``fit`` and ``generate`` (``defaults.json`` in its folder).
    """

    def __init__(self, pipe: Any, name: str | Path = "custom"):
        if not isinstance(pipe, DiffusionPipeline):
            raise InputError(f"a Stable Diffusion pipeline is needed, got {shown(pipe)}; load one by from_pretrained")
        self.pipe = pipe
        self.family: Family = family_of(pipe)
        for part in (pipe.unet, pipe.vae, *(each.encoder for each in self.text_parts)):
            part.requires_grad_(False).eval()
        self._loaded_scheduler = pipe.scheduler
        check_scheduler(pipe.scheduler, str(name))
        self.family.check(pipe, str(name))
        self.distilled = distilled(pipe.scheduler, pipe.unet)
        self._conditions: dict[tuple[int, int], Tensor] = {}
        self._memory: float | str = AUTO
        self.base = identify(pipe, self.family, name)
        self.recommended: dict[str, Any] = recommended_settings(name)

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    @property
    def memory(self) -> float | str:
        """What the model and all that is done with it may take: ``"auto"``, what is free, or a number of GB."""
        return self._memory

    @memory.setter
    def memory(self, value: float | str) -> None:
        self._memory = checked_memory(value)

    @property
    def held(self) -> int:
        """Bytes of its weights."""
        parts = [self.pipe.unet, self.pipe.vae, *(part.encoder for part in self.text_parts)]
        return sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters())

    def memory_left(self) -> int:
        """Return how many bytes may be taken beside its weights."""
        return left_of(self.memory, self.device, self.held)

    @property
    def text_parts(self) -> list[TextPart]:
        """Its text encoders with their tokenizers."""
        return self.family.text_parts(self.pipe)

    def conditioner(self, tokens: Sequence[str] = (), clip_skip: int = 0) -> TextConditioner:
        """Return what reads prompts with added tokens, in views of its own; see :class:`TextConditioner`."""
        return TextConditioner(self.family, self.text_parts, tokens, clip_skip)

    @property
    def resolution(self) -> int:
        """Side of the model's pictures in pixels."""
        return self.base.resolution

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Channels and side of the model's latents."""
        return self.pipe.vae.config.latent_channels, self.resolution // self.pipe.vae_scale_factor

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels: a cell of the coarsest level of the UNet.

        And of 8, on which diffusers insists whatever the model.
        """
        return lcm(8, self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1))

    @property
    def sampling(self) -> Sampling:
        """What the model recommends for drawing; else 50 steps and a guidance scale of 6 (paper)."""
        rescale = 0.7 if zero_terminal_snr(self._loaded_scheduler) else 0.0  # Lin et al., section 3.4
        found = self.distilled or Sampling(guidance_rescale=rescale)
        stated = self.recommended.get("generate", {})
        return replace(found, guidance_scale=float(stated.get("guidance_scale", found.guidance_scale)))

    def steps_for(self, usual: int) -> int:
        """Return how many steps a sheet is drawn with that takes ``usual`` ones: of a distilled model its own."""
        return usual if self.distilled is None else min(usual, self.distilled.steps)

    @property
    def takes_guidance(self) -> bool:
        """Whether the UNet takes the guidance scale as a number, and is not computed twice for it."""
        return self.pipe.unet.config.get("time_cond_proj_dim") is not None

    @property
    def upcast_vae(self) -> bool:
        """Whether the autoencoder computes in float32 whatever it is kept in: in float16 it is known to overflow."""
        return self.family.single_precision_vae and bool(self.pipe.vae.config.get("force_upcast", False))

    def coding(self, size: tuple[int, int] | None = None) -> Coding:
        """Return how its autoencoder computes pictures of a size in pixels, height and width; default its own."""
        side = self.resolution
        return coding_for(self.pipe.vae, size or (side, side), self.upcast_vae, self.memory_left())

    def condition(self, size: tuple[int, int], given: tuple[Tensor, Tensor] | None = None) -> Tensor | None:
        """Return what an inpainting UNet is told beside the latents, see :func:`sdk.model.latents.condition`.

        ``None``: this model's takes latents alone. One of nothing given is kept.
        """
        vae = self.pipe.vae
        if not paints_over(self.pipe.unet, vae.config.latent_channels):
            return None
        if given is not None:
            return condition(vae, self.device, size, self.coding(size), given)
        if size not in self._conditions:
            self._conditions[size] = condition(vae, self.device, size, self.coding(size), None)
        return self._conditions[size]

    def sizes(self, height: int | None = None, width: int | None = None) -> Tensor:
        """Return the sizes of a whole picture ``[1, 6]``, see :meth:`sdk.families.Family.unet_arguments`."""
        size = (float(height or self.resolution), float(width or self.resolution))
        return torch.tensor([[*size, 0.0, 0.0, *size]], dtype=torch.float32)

    def training_scheduler(self) -> DDPMScheduler:
        """Return the noise levels that the model was trained with."""
        return training_scheduler(self._loaded_scheduler)

    def sampling_scheduler(self) -> Any:
        """Return DDIM on the model's own levels, see :mod:`sdk.model.schedules`; of a distilled model its own."""
        own = self._loaded_scheduler
        return copy.deepcopy(own) if self.distilled else sampling_scheduler(own)

    def drawing_scheduler(self, asked: Any = None, usual: str | None = None) -> Any:
        """Return what a call draws with, its own: :meth:`sampling_scheduler`, or a copy of one that a user set since.

        That is, of ``pipe.scheduler`` if it is another object than the model was loaded with.

        Args:
            asked: what the call asks for instead, a name or one of diffusers' schedulers.
            usual: name of what stands for the model's own.

        Raises:
            InputError: something else.
        """
        if isinstance(asked, SchedulerMixin):
            return copy.deepcopy(asked)
        if asked is not None:
            return named_scheduler(check_scheduler_name(asked), self._loaded_scheduler)
        chosen = self.pipe.scheduler
        if chosen is not self._loaded_scheduler:
            return copy.deepcopy(chosen)
        return self.sampling_scheduler() if usual is None else named_scheduler(usual, self._loaded_scheduler)

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
