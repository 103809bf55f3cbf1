"""A base model that draws: what fitting, evaluation and comparison work with, and what a user's object is made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ..drawing_rules import Generation, check_size, check_steps
from ..model.base_model import BaseModel
from ..pack import ConceptPack
from .requests import Request, packs_for, requests_for
from .sampler import Sampler

log = logging.getLogger("sdk")
_BATCH = 16  # pictures drawn at a time


class Engine(BaseModel):
    """A base model, and the sampler on it. Nothing here remembers a pack."""

    def __init__(self, pipe: StableDiffusionPipeline, name: str | Path = "custom"):
        super().__init__(pipe, name)
        self._sampler = Sampler(self)

    def draw(
        self,
        prompts: Sequence[str],
        packs: ConceptPack | Sequence[ConceptPack | None] | None,
        *,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **arguments: Any,
    ) -> Generation:
        """Draw prompts with packs; see :meth:`sdk.Personalizer.generate`.

        Args:
            prompts: what to draw.
            packs: one for all, or one (or ``None``: the plain base model) for each prompt.
            num_images: per prompt; the other named arguments are those of ``generate``.
            **arguments: of :meth:`sdk.sampling.sampler.Sampler.draw`.

        Raises:
            InputError: an empty prompt, a token that was not learned or lacks its class noun, wrong counts or sizes.
            BaseModelError: a pack of another base model.
        """
        chosen = packs_for(prompts, packs)
        notes = []
        for text, pack in zip(prompts, chosen, strict=True):
            if pack is not None:
                self.check_base(pack)
            note = self._sampler.check_prompt(text, pack)
            if note is not None:
                log.warning(note)
                notes.append(note)
        requests = requests_for(prompts, chosen, num_images, seed, negative_prompt, generator)
        check_size(height, width, self.size_multiple)
        check_steps(num_inference_steps)
        images = self._batches(
            requests,
            generator if isinstance(generator, list) else None,
            num_inference_steps=num_inference_steps,
            guidance_scale=self.recommended_guidance if guidance_scale is None else guidance_scale,
            eta=eta,
            height=height,
            width=width,
            **arguments,
        )
        return Generation(images, notes)

    def _batches(
        self, requests: list[Request], generators: list[torch.Generator] | None, **arguments: Any
    ) -> list[Image.Image]:
        """Draw all requests, a batch at a time; a pack with UNet weights of its own has batches to itself."""
        apart: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            whole = request.pack is not None and bool(request.pack.unet)
            apart.setdefault(id(request.pack) if whole else 0, []).append(index)
        images: dict[int, Image.Image] = {}
        for indices in apart.values():
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH]
                own = [generators[i] for i in part] if generators is not None else None
                drawn = self._sampler.draw([requests[i] for i in part], generators=own, **arguments)
                images.update(zip(part, drawn, strict=True))
        return [images[index] for index in range(len(requests))]
