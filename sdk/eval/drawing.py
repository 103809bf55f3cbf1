"""Pictures drawn to be scored."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..pack import ConceptPack
from ..runtime import Progress
from ..sampling.attempts import ONE, Attempts
from ..sampling.engine import Engine
from .prompt_sets import Prompt


@dataclass(frozen=True)
class Drawn:
    """Pictures of one prompt; ``asked`` are the concepts it names, ``attempts`` what each took, if someone looked."""

    prompt: str
    asked: tuple[int, ...]
    background: str | None
    images: list[Image.Image]
    attempts: list[int] = field(default_factory=list)


def draw_for(
    engine: Engine,
    prompts: Sequence[Prompt],
    pack: ConceptPack | None,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
    guidance_scale: float | None = None,
    attempts: Attempts = ONE,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Drawn]:
    """Draw prompts with a pack, or the same without tokens on the untouched model; see :meth:`Engine.draw`.

    Who chooses pictures in ``attempts`` must not score them.
    """
    texts = [prompt.plain if pack is None else prompt.learned for prompt in prompts]
    # In one call, for larger batches; every picture has noise of its own, the same whatever pack draws it.
    drawn = engine.draw(
        texts,
        [pack] * len(texts),
        num_images=num_images,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        attempts=attempts,
        progress=progress,
        cancel=cancel,
    )
    found = []
    for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        own = slice(i * num_images, (i + 1) * num_images)
        found.append(Drawn(text, prompt.asked, prompt.background, drawn.images[own], drawn.attempts[own]))
    return found
