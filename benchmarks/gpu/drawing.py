"""G: drawing one, four and sixteen pictures at once, at every speed, beside diffusers' own pipeline of the same parts.

Everybody reads the same prompts, takes as many steps of DDIM with guidance and decodes the pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

from sdk import Personalizer

from .flops import picture_flops
from .goals import CHANNELS_LAST, COMPILED, EAGER, XFORMERS, drawn
from .models import PLAIN, parts_of, plain_pipeline, stable_diffusion
from .rows import Row, compared
from .sizes import Sizes
from .timing import Call, in_turns, product_ceiling, release

SPEEDS = ("balanced", "fast")
GUIDANCE = 6.0


def _channels_last(unet: Any) -> Any:
    return unet.to(memory_format=torch.channels_last)


def _with_xformers(unet: Any) -> Any:
    if find_spec("xformers") is None:
        raise ImportError("xformers is not installed")
    unet.enable_xformers_memory_efficient_attention()
    return unet


def peers(personalizer: Personalizer, sizes: Sizes) -> dict[str, Callable[[int], Any]]:
    """Return functions that draw so many pictures; each makes its pipeline when it is first called."""

    def compiled(unet: Any) -> Any:
        how: dict[str, Any] = {"backend": "eager"} if sizes.tiny else {"mode": sizes.compile_mode}
        return torch.compile(_channels_last(unet), fullgraph=True, dynamic=False, **how)

    changes = {EAGER: lambda unet: unet, CHANNELS_LAST: _channels_last, COMPILED: compiled, XFORMERS: _with_xformers}
    made: dict[str, Any] = {}

    def draw(name: str, count: int) -> Any:
        if name not in made:
            made[name] = plain_pipeline(personalizer.pipe, changes[name](copy.deepcopy(personalizer.pipe.unet)))
        return made[name]([PLAIN] * count, num_inference_steps=sizes.draw_steps, guidance_scale=GUIDANCE).images

    return {name: lambda count, name=name: draw(name, count) for name in changes}


def ours(personalizer: Personalizer, sizes: Sizes, count: int, speed: str) -> Any:
    """Draw with the package: all steps of DDIM, or as the speed says."""
    exact = {"num_inference_steps": sizes.draw_steps, "scheduler": "ddim", "eta": 0.0} if speed == "exact" else {}
    return personalizer.generate([PLAIN] * count, seed=0, speed=speed, guidance_scale=GUIDANCE, **exact).images


def measure(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of section G."""
    personalizer = stable_diffusion(sizes)
    rivals = peers(personalizer, sizes)
    ceiling = product_ceiling(sizes.device, sizes.product)
    operations = picture_flops(parts_of(personalizer), sizes.draw_steps)
    for batch in sizes.batches:
        calls: dict[str, Call] = {
            speed: lambda speed=speed, batch=batch: ours(personalizer, sizes, batch, speed)
            for speed in ("exact", *SPEEDS)
        }
        calls |= {name: lambda draw=draw, batch=batch: draw(batch) for name, draw in rivals.items()}
        medians, first, failed = in_turns(sizes.wanted(calls), sizes.device, sizes.rounds)
        each = {name: taken / batch for name, taken in medians.items()}
        others = {name: taken for name, taken in each.items() if name not in SPEEDS}
        mfu = operations / each["exact"] / ceiling if "exact" in each else None
        yield from compared("G", drawn(batch), others, "exact", failed, mfu)
        for speed in SPEEDS:
            beside = {name: each[name] for name in (speed, "exact", EAGER) if name in each}
            yield from compared("G", drawn(batch, speed), beside, speed, {})
        at_first = {name: first[name] / batch for name in others}
        yield from compared("G", f"{drawn(batch)}, the first time", at_first, "exact", {})
        release(sizes.device)
