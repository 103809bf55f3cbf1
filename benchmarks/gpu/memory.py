"""Memory at the peak of a fit beside what was predicted, for each family; and a step of each, for the largest too.

On a GPU it is what the allocator took and what was in use before it took anything, so nothing else should run there. In
a dry run it is what the process has.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch

from sdk import ConceptPack, Event, Personalizer
from sdk.fit import fit_memory
from sdk.runtime import peak_memory

from .fit import settings, timed_fit
from .goals import BUDGET, PREDICTED
from .models import PLAIN, random_personalizer
from .rows import Row
from .sizes import Sizes
from .timing import FAILURES, reason_of, release, wait

DRAWN_STEPS = 4


def measure(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of section memory."""
    for family in sizes.families:
        release(sizes.device)
        try:
            personalizer = random_personalizer(family, sizes)
        except FAILURES as error:
            yield Row("memory", f"{family}, 1 row", None, "GB", note=reason_of(error))
            continue
        for rows in (1, sizes.fit_rows) if family == "sd1" else (1,):
            yield from _of_rows(personalizer, family, rows, sizes)
        for budget in sizes.budgets:
            yield from _within(personalizer, family, budget, sizes)
        personalizer.memory = "auto"
        what = f"{family}, a step of drawing"
        try:
            yield Row("memory", what, drawn_step(personalizer, sizes.device))
        except FAILURES as error:
            yield Row("memory", what, None, note=reason_of(error))
        del personalizer


def _of_rows(personalizer: Personalizer, family: str, rows: int, sizes: Sizes) -> Iterator[Row]:
    """A fit of so many rows, all at once."""
    what = f"{family}, {rows} row{'s' if rows > 1 else ''}"
    config = settings(sizes, None, batch_size=rows, rows_at_once=rows, accelerate="eager")
    try:
        (_, times), peak = peak_of(lambda: timed_fit(personalizer, config, sizes.warm_from), sizes.device)
    except FAILURES as error:
        yield Row("memory", what, None, "GB", note=reason_of(error))
        return
    yield Row("memory", what, peak, "GB")
    yield Row("memory", what, peak, "GB", PREDICTED, predicted(personalizer, rows, False, sizes))
    yield Row("memory", f"{what}, a step of the fit", times.each)


def _within(personalizer: Personalizer, family: str, budget: float, sizes: Sizes) -> Iterator[Row]:
    """A fit as ``memory=`` chooses it."""
    what = f"{family}, memory={budget:g}"
    personalizer.memory = float(budget)
    config = settings(sizes, None, steps=sizes.warm_from + 1, rows_at_once=0, accelerate="eager")
    try:
        (pack, _), peak = peak_of(lambda: timed_fit(personalizer, config, sizes.warm_from), sizes.device)
    except FAILURES as error:
        yield Row("memory", what, None, "GB", BUDGET, budget, note=reason_of(error))
        return
    rows, again = _chosen(pack, sizes)
    note = f"{rows} of {sizes.fit_rows} rows at once{', activations computed again' if again else ''}"
    yield Row("memory", what, peak, "GB", BUDGET, budget, note=note)
    yield Row("memory", what, peak, "GB", PREDICTED, predicted(personalizer, rows, again, sizes), note=note)


def _chosen(pack: ConceptPack, sizes: Sizes) -> tuple[int, bool]:
    return pack.settings["rows_at_once"] or sizes.fit_rows, pack.settings["gradient_checkpointing"]


def predicted(personalizer: Personalizer, rows: int, checkpointing: bool, sizes: Sizes) -> float:
    """Return what the package says that a fit needs, GB."""
    unet = personalizer.pipe.unet
    own = sum(weight.numel() * weight.element_size() for weight in unet.parameters())
    need = fit_memory(
        unet.config,
        personalizer.family.name,
        dtype=sizes.dtype,
        rows=rows,
        checkpointing=checkpointing,
        beside=personalizer.held - own,
        encoders=[part.encoder for part in personalizer.text_parts],
        device=sizes.device.type,
    )
    return need.total / 1e9


def peak_of(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return what a call returns, and the most memory that was taken while it ran, GB."""
    release(device)
    if device.type != "cuda":
        start = psutil.Process().memory_info().rss
        with peak_memory(device) as rise:
            result = call()
        return result, (start + rise[0]) / 1e9
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)  # the context, and kernels that are loaded
    torch.cuda.reset_peak_memory_stats(device)
    result = call()
    wait(device)
    return result, (beside + torch.cuda.max_memory_reserved(device)) / 1e9


def drawn_step(personalizer: Personalizer, device: torch.device) -> float:
    """Return the seconds of a step of drawing one picture."""
    ends: list[float] = []

    def note(event: Event) -> None:
        wait(device)
        ends.append(time.perf_counter())

    personalizer.unload_pack()
    personalizer.generate(PLAIN, seed=0, num_inference_steps=DRAWN_STEPS, progress=note)
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends[1:]))
