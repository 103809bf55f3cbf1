"""One worker of a fleet: a base model, loaded once, and the fits that it is given."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ..disk.folders import BusyError
from ..errors import InputError, SdkError
from ..fit import StepReport
from ..personalizer import Personalizer
from ..printable import printable
from ..runtime import Cancelled, check_cancelled
from .jobs import Job, job_id
from .outcomes import PACKS, Outcome, record

_LAST = 20  # steps whose losses a fit is judged by
_PATIENCE = 60.0  # seconds: a worker whose fleet was killed ends within a step


@dataclass(frozen=True)
class Task:
    """A job that is to be done, its id, and what of that is the base model's, see :func:`sdk.fleet.jobs.job_id`."""

    job: Job
    id: str
    base: dict[str, str]

    def check(self) -> None:
        """Raise :class:`InputError` if a picture is no longer what it was: its pack would have another id."""
        if job_id(self.job, self.base) != self.id:
            raise InputError("a picture changed while the fleet ran; call it again")


@dataclass(frozen=True)
class Loading:
    """How workers load the base model, see :meth:`sdk.Personalizer.from_pretrained`."""

    model: str | Path = "bundled"
    device: Any = None
    dtype: Any = None
    memory: float | str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Personalizer:
        """Load the model."""
        return Personalizer.from_pretrained(self.model, self.device, self.dtype, self.memory, **self.options)


def work(
    personalizer: Personalizer,
    task: Task,
    folder: Path,
    cancel: threading.Event | None = None,
    stepped: Callable[[int, int], Any] | None = None,
) -> Outcome:
    """Do a job, from its checkpoint if there is one, and return what came of it.

    What the job cannot work with, and memory or disks that run out, are reasons of a failure; a bug is raised.

    Args:
        personalizer: the base model.
        task: what to do.
        folder: the fleet's output.
        cancel: once set, :class:`sdk.runtime.Cancelled` is raised; the checkpoint stays.
        stepped: called after each step with its number and how many there are.
    """
    job, begin = task.job, time.monotonic()
    losses: list[float] = []

    def callback(step: StepReport) -> None:
        losses.append(step.losses["loss"])
        if stepped is not None:
            stepped(step.step, step.steps)

    try:
        task.check()
        config = personalizer.default_config(job.preset, job.method, **job.settings)
        while True:
            try:
                pack = personalizer.fit(
                    job.image,
                    list(job.concepts),
                    method=job.method,
                    config=config,
                    seed=job.seed,
                    masks=list(job.masks) or None,
                    output_dir=folder / PACKS / task.id,
                    resume=True,
                    callback=callback,
                    cancel=cancel,
                )
                break
            except BusyError:  # a worker of a fleet that was killed is at it, and ends after its step
                check_cancelled(cancel)
                if time.monotonic() - begin > _PATIENCE:
                    raise
                time.sleep(0.2)
        try:
            task.check()  # it was opened after it had been looked at
        except SdkError:
            shutil.rmtree(folder / PACKS / task.id)
            raise
        seconds = time.monotonic() - begin
        loss = fmean(losses[-_LAST:]) if losses else float("nan")
        done = Outcome(
            job.shown, "done", "", task.id, f"{PACKS}/{task.id}", round(loss, 6), round(seconds, 3), pack.content_hash()
        )
        record(folder, done)
    except (Cancelled, KeyboardInterrupt):
        raise
    except SdkError as error:
        return Outcome(job.shown, "failed", str(error), task.id)
    except (MemoryError, OSError, RuntimeError) as error:  # torch's own, where memory ran out, too
        reason = f"{printable(error, 300)} ({type(error).__name__}); fit this row alone, or with fewer workers"
        return Outcome(job.shown, "failed", reason, task.id)
    return done
