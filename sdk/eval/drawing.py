"""Pictures drawn to be scored."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from ..pack import ConceptPack
from ..runtime import Progress
from ..sampling.engine import Engine
from .prompt_sets import Prompt


@dataclass(frozen=True)
class Drawn:
    """Pictures of one prompt; ``asked`` are the concepts it names."""

    prompt: str
    asked: tuple[int, ...]
    background: str | None
    images: list[Image.Image]


def draw_for(
    engine: Engine,
    prompts: Sequence[Prompt],
    pack: ConceptPack | None,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Drawn]:
    """Draw prompts with a pack, or the same without tokens on the untouched model."""
    texts = [prompt.plain if pack is None else prompt.learned for prompt in prompts]
    # In one call, for larger batches; every picture has noise of its own, the same whatever pack draws it.
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(texts) * num_images)]
    images = engine.draw(
        texts,
        [pack] * len(texts),
        num_images=num_images,
        generator=noise,
        num_inference_steps=num_inference_steps,
        progress=progress,
        cancel=cancel,
    ).images
    return [
        Drawn(text, prompt.asked, prompt.background, images[i * num_images : (i + 1) * num_images])
        for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]
