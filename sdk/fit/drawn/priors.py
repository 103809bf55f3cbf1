"""How a fit lets the plain base model draw, and what those pictures depend on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from ...config import FitConfig
from ...sampling.engine import Engine
from ..whole import whole_identity


def drawer(
    engine: Engine, config: FitConfig, cancel: threading.Event | None
) -> Callable[[list[str], list[int]], list[Image.Image]]:
    """Return a function that draws prompts, each with the noise of a seed, by the plain base model.

    Args:
        engine: the base model.
        config: ``prior_steps`` and ``prior_guidance`` say how.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.
    """

    def draw(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        return engine.draw(
            prompts,
            None,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=config.prior_steps,
            guidance_scale=config.prior_guidance,
            cancel=cancel,
        ).images

    return draw


def depends_on(engine: Engine) -> dict[str, Any]:
    """Return what of the model and the machine such pictures depend on, as plain values."""
    return {"base": whole_identity(engine), "device": engine.device.type}
