"""What a program around the package wants to hear and not to hear: progress, cancelling, banners, memory."""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Cancelled",
    "Event",
    "Phase",
    "ProgressBar",
    "check_cancelled",
    "keep_memory",
    "peak_memory",
    "progress",
    "quiet",
    "without_bars",
]


PHASES = (
    *("priors", "masks", "words", "fit", "validate", "sheets", "draw", "score", "export", "quantize", "merge", "fleet"),
)
"""What long work consists of: prior pictures, masks, the search for initial words, training steps, validation,
pictures to look at, drawing, scoring, the parts of an export, the steps of quantising one, the layers of a merge,
the fits of a fleet."""


@dataclass(frozen=True)
class Event:
    """What a ``progress`` callback is told.

    Attributes:
        phase: what is being done, one of :data:`PHASES`; in a comparison after the arm's name and a colon.
        done: steps done; 0 when the phase begins.
        total: steps in all.
        losses: of a fit's step, by name.
        seconds_left: estimate, where there is one.
    """

    phase: str
    done: int
    total: int
    losses: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None


Progress = Callable[[Event], Any]


class Cancelled(Exception):
    """Raised by a call whose ``cancel`` event was set.

    Attributes:
        finished: of a call that draws, the pictures that were done, by their place in the call.
    """

    def __init__(self, message: str = "cancelled", finished: dict[int, Any] | None = None) -> None:
        super().__init__(message)
        self.finished = finished or {}


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise :class:`Cancelled` if the event is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled")


class Phase:
    """One phase of long work: whoever wants to know is told, and it ends when it is cancelled.

    Args:
        name: one of :data:`PHASES`.
        total: steps in all.
        progress: told at the beginning (``done=0``) and after each step.
        cancel: looked at before each step.
        first: steps that were done before, by an interrupted run.

    Raises:
        Cancelled: ``cancel`` was set.
    """

    def __init__(
        self, name: str, total: int, progress: Progress | None, cancel: threading.Event | None, first: int = 0
    ) -> None:
        self.name, self.total, self.progress, self.cancel = name, total, progress, cancel
        self.first, self.count = first, first
        self._begin = time.monotonic()
        self.step(0)

    def step(self, steps: int = 1, losses: dict[str, float] | None = None) -> None:
        """Note that so many further steps are done; raise :class:`Cancelled` if no more are wanted."""
        self.count += steps
        if self.progress is not None:
            self.progress(Event(self.name, self.count, self.total, losses or {}, self.seconds_left))
        if self.count < self.total:
            check_cancelled(self.cancel)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the steps so far; ``None`` before the first."""
        done = self.count - self.first
        return (time.monotonic() - self._begin) / done * (self.total - self.count) if done > 0 else None


class ProgressBar:
    """A bar on standard error, a phase at a time; pass it as ``progress``. See :func:`progress`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def __call__(self, event: Event) -> None:
        with suppress(OSError):  # nobody looks any more: no reason to stop working
            self._show(event)

    def _show(self, event: Event) -> None:
        if self._bar is None or event.phase != self._phase or event.done <= self._bar.n:
            from tqdm import tqdm

            self.close()
            self._phase = event.phase
            # What was done before, by an interrupted run, does not count as quick.
            first = event.done if not event.losses else event.done - 1
            self._bar = tqdm(total=event.total, initial=first, desc=event.phase, unit="step")
        if event.losses:
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in event.losses.items()}, refresh=False)
        self._bar.update(event.done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
            self._bar = None


@contextmanager
def progress() -> Iterator[ProgressBar]:
    """Show a bar on standard error.

    >>> with sdk.progress() as bar:
    ...     pack = personalizer.fit("photo.jpg", ["cat", "dog"], progress=bar)
    """
    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.close()


def quiet() -> None:
    """Keep the banners, warnings and progress bars of diffusers, transformers and torch off the terminal."""
    without_warnings()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def without_warnings() -> None:
    """Keep the warnings of diffusers, transformers and torch off the terminal; :func:`quiet` without loading them."""
    warnings.filterwarnings("ignore", module="(diffusers|transformers|torch).*")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the progress bars of diffusers and transformers off the terminal in a block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it after every operation.

    Activations of a small model are just large enough to be mapped and unmapped each time, which costs a fifth of
    the run time on a CPU. Elsewhere than glibc this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (trim_threshold, mmap_threshold):
            mallopt(option, 1 << 30)


@contextmanager
def peak_memory(device: Any) -> Iterator[list[float]]:
    """Measure by how many bytes the memory in use rises in a block; the figure is there when the block ends.

    Args:
        device: a torch device; on CUDA its own memory is measured, else the process's.
    """
    found = [0.0]
    if device.type == "cuda":
        import torch

        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    import psutil

    with suppress(OSError, AttributeError, TypeError):  # other systems' C libraries
        # Memory that was freed but kept would be used again without the process growing: give it back first.
        ctypes.CDLL(None).malloc_trim(0)
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.05):
            found[0] = max(found[0], process.memory_info().rss - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
