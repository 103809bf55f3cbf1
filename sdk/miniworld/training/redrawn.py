"""Renders redrawn by the base model: its own artefacts, with the truth still known.

A render is noised halfway and denoised under its own caption (SDEdit, Meng et al., 2022). What stands where is still
the render's; edges, legs and stripes are the model's. What a caption cannot say or the model is free to change is
taken out of the labels.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from ...unet.attention import attention_processors, plain_processors
from ..captions import write_caption
from ..scene import Scene
from .pools import to_unit

STRENGTHS = (0.3, 0.4, 0.5)  # share of the noise levels that is drawn anew; at 0.55 birds turn into trees
_STEPS = 20
_GUIDANCE = 4.0


class Redrawer:
    """Redraws pictures with a base model.

    Args:
        folder: of the base model, a diffusers pipeline.
        device: where to draw.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder).to(device)
        self.pipe.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, scenes: list[Scene], seed: int) -> Tensor:
        """Return uint8 ``[B, 3, 64, 64]`` for renders of the same shape and the scenes they show."""
        rng = random.Random(f"redraw {seed}")
        captions = [write_caption(scene, rng, keep=1.0).text for scene in scenes]
        generator = torch.Generator().manual_seed(seed)
        out = []
        with attention_processors(self.pipe.unet, plain_processors(self.pipe.unet)):
            for turn, start in enumerate(range(0, len(scenes), 64)):
                part = slice(start, start + 64)
                drawn = self.pipe(
                    captions[part],
                    image=(to_unit(pictures[part]) + 1) / 2,
                    strength=STRENGTHS[turn % len(STRENGTHS)],
                    num_inference_steps=_STEPS,
                    guidance_scale=_GUIDANCE,
                    generator=generator,
                    output_type="pt",
                ).images
                out.append((drawn * 255).round().to(torch.uint8).cpu())
        return torch.cat(out)


def still_true(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the labels that survive a redrawing: all but accent, pattern and identity."""
    free = {name: torch.full_like(labels[name], -100) for name in ("accent", "pattern")}
    return labels | free | {"identity": torch.full_like(labels["identity"], -1)}
