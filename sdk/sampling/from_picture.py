"""Drawings that start from a picture: image to image, and painting over a part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.image_io import to_tensor
from ..model.base_model import BaseModel
from ..model.latents import encoded
from ..turns import beside_others


@dataclass(frozen=True)
class Start:
    """Where a drawing starts from a picture.

    Attributes:
        clean: its latents, ``[1, C, h, w]``.
        strength: share of the sampling steps that are done, the last ones.
        hole: ``[1, 1, h, w]``, 1 where the picture is redrawn; ``None``: everywhere.
        given: with a hole, the picture in [-1, 1], ``[1, 3, H, W]``, and the hole in pixels, ``[1, 1, H, W]``.
    """

    clean: Tensor
    strength: float = 1.0
    hole: Tensor | None = None
    given: tuple[Tensor, Tensor] | None = None


@beside_others()
def start_from(base: BaseModel, image: Image.Image, hole: Image.Image | None = None, strength: float = 1.0) -> Start:
    """Encode a picture and reduce what is to be redrawn to the latents' size (a cell is, if any of its pixels is).

    Raises:
        NotFiniteError: see :func:`sdk.model.latents.encoded`.
    """
    vae = base.pipe.vae
    latents, _ = encoded(vae, to_tensor(image)[None].to(base.device), base.coding())
    cells = given = None
    if hole is not None:
        white = (to_tensor(hole.convert("RGB"))[:1] > 0).float()[None]
        cells = F.adaptive_max_pool2d(white, latents.shape[-2:]).to(latents)
        given = (to_tensor(image)[None], white)
    return Start(latents * vae.config.scaling_factor, strength, cells, given)


def blending(start: Start, noise: Tensor) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """Return a callback that puts the kept part back after each step, at the noise level of the next step.

    This is blended latent diffusion (Avrahami et al., SIGGRAPH 2023): any text-to-image model can paint over a part.

    Args:
        start: with a hole.
        noise: of the kept part, ``[B, C, h, w]``.
    """
    assert start.hole is not None
    hole = start.hole

    def blend(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        later = pipe.scheduler.timesteps[step + 1 : step + 2]
        kept = start.clean.expand_as(values["latents"])
        if len(later):
            kept = pipe.scheduler.add_noise(kept, noise, later.expand(len(kept)))
        mask = hole.to(values["latents"])
        values["latents"] = mask * values["latents"] + (1 - mask) * kept.to(values["latents"])
        return values

    return blend


def noise_beside(start: Start, generators: list[torch.Generator]) -> Tensor:
    """Return noise ``[B, C, h, w]`` for the kept part, of the seed next to each generator's own."""
    shape = start.clean.shape[1:]
    beside = [torch.Generator().manual_seed((g.initial_seed() + 1) % (1 << 63)) for g in generators]
    drawn = [torch.randn(shape, generator=own, dtype=torch.float32) for own in beside]  # whatever the default type is
    return torch.stack(drawn).to(start.clean)
