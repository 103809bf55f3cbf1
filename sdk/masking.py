"""Masks of a picture's concepts for a person to look at, edit and hand back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from .concepts import Concept
from .config import FitConfig
from .images import square
from .learner import Learner
from .looking import find_masks
from .pictures import labelled_grid, tile
from .regions import drawn_mask
from .targets import LatentCache

if TYPE_CHECKING:
    from .personalizer import Personalizer

_COLOURS = ((230, 60, 60), (60, 120, 230), (50, 180, 90), (240, 180, 40), (160, 80, 200), (40, 190, 200))


def masks_of(
    personalizer: Personalizer, picture: Image.Image, concepts: Sequence[Concept], config: FitConfig
) -> list[Image.Image]:
    """Return one mask per concept, white on black, of the picture's size; outside its centre square black.

    Args:
        personalizer: the base model, whose attention tells.
        picture: the reference picture.
        concepts: what to look for.
        config: its ``masks`` say how.
    """
    pipe, device = personalizer.pipe, personalizer.device
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    learner = Learner(pipe, list(concepts), config, scheduler, device)
    cut = square(picture, personalizer.base.resolution)
    masks = find_masks(learner, LatentCache(pipe.vae, device).sample(0, cut, torch.zeros(1)))
    side = min(picture.size)
    corner = ((picture.width - side) // 2, (picture.height - side) // 2)
    found = []
    for mask in masks[:-1]:
        canvas = Image.new("L", picture.size)
        canvas.paste(drawn_mask(mask, (side, side)).convert("L"), corner)
        found.append(canvas)
    return found


def mask_sheet(picture: Image.Image, concepts: Sequence[Concept], masks: Tensor) -> Image.Image:
    """The picture, then the picture with each concept's mask ``[S, r, r]`` laid over it."""
    shown = tile(picture)
    row = [shown]
    for index, mask in enumerate(masks[: len(concepts)]):
        white = np.asarray(drawn_mask(mask, shown.size).convert("L"), np.float32)[..., None] / 255
        under = np.asarray(shown, np.float32)
        colour = np.array(_COLOURS[index % len(_COLOURS)], np.float32)
        row.append(Image.fromarray((under * (1 - 0.6 * white) + 0.6 * white * colour).astype(np.uint8)))
    return labelled_grid([row], ["reference | " + " | ".join(c.phrase for c in concepts)])
