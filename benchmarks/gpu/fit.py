"""F: steps of a fit, however they are computed, beside the loop that diffusers' users have.

Each way is a whole fit of a few steps through the public interface, and ways take turns. The first step of the first
round is a cold one: whatever is compiled or recorded is in it. The seconds of a warm step are those between two late
steps of one fit. Masks are given, and the autoencoder has encoded every picture before the first step, as in a fit
whose priors are cached.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdk import ConceptPack, Event, FitConfig, Personalizer

from .flops import fit_row_flops
from .goals import CALIBRATION, COLD, LOOP, LOOP_COMPILED, NO_CALIBRATION, STEP, WARM
from .models import CLASSES, masks_of, parts_of, reference_picture, stable_diffusion
from .peer import Loop, loop_times
from .rows import Row, compared
from .sizes import Sizes
from .timing import FAILURES, product_ceiling, reason_of, release

STEPS = 250
OURS = ("accelerate=graph", "accelerate=eager", "accelerate=compile")


@dataclass(frozen=True)
class StepTimes:
    """Of one fit.

    Attributes:
        first: seconds until the first step was done.
        each: seconds of a late step.
    """

    first: float
    each: float

    @property
    def whole(self) -> float:
        """Seconds of a fit of 250 steps."""
        return self.first + (STEPS - 1) * self.each


def ways() -> dict[str, dict[str, Any]]:
    """Changes of the settings by name."""
    return {name: {"accelerate": name.partition("=")[2]} for name in OURS} | {
        "accelerate=eager, xformers": {"accelerate": "eager", "attention": "xformers"},
        "accelerate=graph, xformers": {"accelerate": "graph", "attention": "xformers"},
        "accelerate=eager, reference kernels": {"accelerate": "eager", "backend": "reference"},
        "accelerate=graph, reference kernels": {"accelerate": "graph", "backend": "reference"},
        NO_CALIBRATION: {"disendiff": {"calibration_weight": 0.0}},
    }


def settings(sizes: Sizes, priors: Path | None, **changes: Any) -> FitConfig:
    """Return the settings of a fit that is timed."""
    usual: dict[str, Any] = {
        "steps": sizes.fit_steps,
        "batch_size": sizes.fit_rows,
        "rows_at_once": sizes.fit_rows,
        "target_pool": 2 * sizes.fit_rows,
        "prior": "none" if priors is None else str(priors),
        "precision": "bf16",
        "checkpoint_every": 0,
    }
    return FitConfig.preset("best", "disendiff", **(usual | changes))


def prior_pictures(folder: Path, count: int, side: int) -> Path:
    """Write pictures of noise, which cost what any cost; return the folder."""
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def timed_fit(personalizer: Personalizer, config: FitConfig, warm_from: int) -> tuple[ConceptPack, StepTimes]:
    """Fit, and return the pack with the seconds of its steps.

    On a GPU a step's losses are read once the next one was begun; all is done when the last ones are.
    """
    picture = reference_picture(personalizer)
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.phase == "fit":
            ends.append(time.perf_counter())

    pack = personalizer.fit(picture, CLASSES, masks=masks_of(picture), config=config, progress=note)
    late = len(ends) - 1 - warm_from
    return pack, StepTimes(ends[1] - ends[0], (ends[-1] - ends[warm_from]) / late)


def measure(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of section F."""
    personalizer = stable_diffusion(sizes)
    with tempfile.TemporaryDirectory() as folder:
        priors = prior_pictures(Path(folder), 2 * sizes.fit_rows, personalizer.resolution)

        def once(changes: dict[str, Any]) -> StepTimes:
            chosen = {"accelerate": _usual(sizes)} | changes
            if sizes.tiny and chosen["accelerate"] == "compile":
                raise RuntimeError("a dry run does not wait for the compiler")
            return timed_fit(personalizer, settings(sizes, priors, **chosen), sizes.warm_from)[1]

        calls: dict[str, Callable[[], StepTimes]] = {
            name: lambda changes=changes: once(changes) for name, changes in ways().items()
        }
        for name, compiled in ((LOOP, False), (LOOP_COMPILED, True)):
            loop = cache(partial(Loop, personalizer, sizes, compiled))  # made when its turn comes, compiled once
            calls[name] = lambda loop=loop: StepTimes(*loop_times(loop(), sizes))
        operations = sizes.fit_rows * fit_row_flops(parts_of(personalizer))
        ceiling = product_ceiling(sizes.device, sizes.product)
        ours = ""
        for found, failed in _in_turns(sizes.wanted(calls), sizes):
            ours = ours if ours in found else _fastest(found) or f"accelerate={_usual(sizes)}"
            yield from _rows(found, failed, sizes, operations / ceiling, ours)


def _usual(sizes: Sizes) -> str:
    """How steps are computed whose other settings are compared."""
    return "graph" if sizes.device.type == "cuda" else "eager"


def _in_turns(
    calls: dict[str, Callable[[], StepTimes]], sizes: Sizes
) -> Iterator[tuple[dict[str, list[StepTimes]], dict[str, str]]]:
    """Times so far by name, the cold one first, and why others have none; after each round but the cold one."""
    found: dict[str, list[StepTimes]] = {}
    failed: dict[str, str] = {}
    for turn in range(1 + sizes.rounds):
        for name, call in calls.items():
            if name not in failed:
                try:
                    found.setdefault(name, []).append(call())
                except FAILURES as error:
                    failed[name] = reason_of(error)
                release(sizes.device)
        if turn:
            yield {name: times for name, times in found.items() if name not in failed}, dict(failed)


def _fastest(found: dict[str, list[StepTimes]]) -> str | None:
    """Which of our ways takes the least for a step; of all rounds the same one, or rows would have other peers."""
    own = [name for name in OURS if name in found]
    return min(own, key=lambda name: statistics.median(t.each for t in found[name][1:])) if own else None


def _rows(
    found: dict[str, list[StepTimes]], failed: dict[str, str], sizes: Sizes, least: float, ours: str
) -> Iterator[Row]:
    """The rows of what was measured so far; ``least``: seconds that a step's products alone would take."""
    steps = {name: statistics.median(t.each for t in times[1:]) for name, times in found.items()}
    cold = {name: times[0].first for name, times in found.items()}
    again = {name: statistics.median(t.first for t in times[1:]) for name, times in found.items()}
    usual = f"accelerate={_usual(sizes)}"
    plain = {name: each.pop(NO_CALIBRATION, None) for name, each in (("steps", steps), ("failed", failed))}
    own = [name for name in OURS if name in steps]
    mfu = least / steps[ours] if own else None
    yield from compared("F", STEP, steps, ours, failed, mfu)
    yield Row(
        "F", CALIBRATION, steps.get(usual), peer=NO_CALIBRATION, peer_value=plain["steps"], note=plain["failed"] or ""
    )
    if own:
        whole = {name: again[name] + (STEPS - 1) * steps[name] for name in steps}
        yield from compared("F", WARM, whole, ours, {}, mfu)
        at_first = {name: cold[name] + (STEPS - 1) * steps[name] for name in own}
        yield from compared("F", COLD, at_first, min(own, key=at_first.__getitem__), {})
        yield from compared("F", "the first step, cold", {n: cold[n] for n in own}, ours, {})
        yield from compared("F", "the first step, warm", {n: again[n] for n in own}, ours, {})
