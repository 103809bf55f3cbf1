"""How long a step of a fit takes here: measured on one row."""

from __future__ import annotations

import random
import time

import torch

from ...concepts import resolve_concepts, target_caption
from ...data.batch import Batch
from ...methods import method_class
from ...sampling.engine import Engine
from ..defaults import recommended_config


def seconds_of_a_row(engine: Engine, method: str = "disendiff") -> float:
    """Return the seconds that one row takes forwards and backwards; the first time, which is slower, does not count.

    Args:
        engine: the base model.
        method: whose row.
    """
    concepts = resolve_concepts(["cat", "dog"])
    config = recommended_config(engine, method=method).for_method(method)
    learner = method_class(method)(engine, concepts, config)
    learner.hold_ready()
    channels, side = engine.latent_shape
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, channels, side, side, generator=generator) for _ in range(2))
    caption = target_caption(concepts, prefix="", rng=random.Random(0), swap_probability=0.0)
    batch = Batch(
        latents=latents,
        noise=noise,
        timesteps=torch.tensor([500]),
        captions=[caption],
        masks=torch.ones(1, 1, side, side),
        named=[(0, 1)],
    ).to(engine.device)
    taken = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        with learner.installed():
            losses = learner.losses(batch)
            losses["loss"].backward()
        float(losses["loss"].detach())  # waits for the device
        taken = time.perf_counter() - begin
    return taken
