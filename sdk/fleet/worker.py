"""One worker of a fleet: a base model, loaded once, and the fits that it is given."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ..disk.caching import sharing
from ..disk.folders import BusyError
from ..errors import SdkError
from ..fit import StepReport
from ..fit.whole import whole_identity
from ..memory.budget import AUTO, free_memory
from ..model.base_model import usable_device
from ..pack import ConceptPack
from ..personalizer import Personalizer
from ..printable import printable
from ..runtime import Cancelled, check_cancelled
from .jobs import Job
from .outcomes import Outcome
from .place import Place
from .records import PACKS, named, record
from .storage import Storage, is_address, shown_address
from .tasks import Loading, Task

_LAST = 20  # steps whose losses a fit is judged by
_PATIENCE = 60.0  # seconds: a worker whose fleet was killed ends within a step


def loaded(loading: Loading, share: float) -> Personalizer:
    """Load a base model, for a share of the free memory where it is this package that decides."""
    if loading.memory == AUTO and share < 1:
        loading = replace(loading, memory=free_memory(usable_device(loading.device)) * share / 1e9)
    given = loading.device, loading.dtype, loading.memory
    return Personalizer.from_pretrained(loading.model, *given, **loading.options)


class Worker:
    """A base model, loaded once, that does one job after the other.

    Args:
        loading: how the model is loaded.
        storage: the fleet's output.
        threads: of torch in a fit.
        share: of the free memory, where it is this package that decides; others on this machine have the rest.
        shares: whether prior pictures are kept in the output, for workers on other machines.

    Attributes:
        base: what ids of jobs depend on, of the model and the kind of device.
    """

    def __init__(
        self, loading: Loading, storage: Storage, threads: int, share: float = 1.0, shares: bool = False
    ) -> None:
        self.personalizer = loaded(loading, share)
        self.base = whole_identity(self.personalizer) | {"device": self.personalizer.device.type}
        self.storage, self.threads, self.shares = storage, threads, shares

    def work(self, task: Task, cancel: threading.Event | None = None) -> Outcome:
        """Do a job, from its checkpoint if there is one, and return what came of it.

        What the job cannot work with, and memory or disks that run out, are reasons of a failure; a bug is raised.

        Args:
            task: what to do.
            cancel: once set, :class:`sdk.runtime.Cancelled` is raised; the checkpoint stays.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)  # here, because it is this thread's
        try:
            with sharing(self.storage if self.shares or self.storage.local is None else None):
                return self._done(task, cancel)
        except (Cancelled, KeyboardInterrupt):
            raise
        except SdkError as error:
            return Outcome(task.job.shown, "failed", str(error), task.id)
        except (MemoryError, OSError, RuntimeError) as error:  # torch's own, where memory ran out, too
            reason = f"{printable(error, 300)} ({type(error).__name__}); fit this row alone, or with fewer workers"
            return Outcome(task.job.shown, "failed", reason, task.id)
        finally:
            torch.set_num_threads(before)

    def _done(self, task: Task, cancel: threading.Event | None) -> Outcome:
        if task.files is None and any(is_address(file) for file in (task.job.image, *task.job.masks)):
            task = task.carrying()
        place = Place(self.storage, task.id)
        with ExitStack() as stack:
            before = stack.enter_context(place.held(cancel))
            if before is not None:
                return named(before, task.job.shown)
            if task.files is None:
                return self._fit(task, task.job, place, cancel)
            paths = stack.enter_context(place.files(task.files))
            job = replace(task.job, image=paths[0], masks=tuple(paths[1:]))
            try:
                return self._fit(task, job, place, cancel)
            except SdkError as error:
                said = str(error)
                for path, given in zip(paths, (task.job.image, *task.job.masks), strict=True):
                    said = said.replace(str(path), shown_address(str(given)))
                return Outcome(task.job.shown, "failed", said, task.id)

    def _fit(self, task: Task, job: Job, place: Place, cancel: threading.Event | None) -> Outcome:
        begin = time.monotonic()
        losses: list[float] = []
        task.check()
        place.fetch()

        def callback(step: StepReport) -> None:
            losses.append(step.losses["loss"])
            place.keep()

        try:
            pack = self._fitted(job, place.folder, callback, cancel, begin)
        except (Cancelled, KeyboardInterrupt):
            place.keep()
            raise
        try:
            task.check()  # a file was opened after it had been looked at
        except SdkError:
            shutil.rmtree(place.folder)
            raise
        place.put()
        seconds = time.monotonic() - begin
        loss = fmean(losses[-_LAST:]) if losses else float("nan")
        done = Outcome(
            *(task.job.shown, "done", "", task.id, f"{PACKS}/{task.id}"),
            *(round(loss, 6), round(seconds, 3), pack.content_hash()),
        )
        record(self.storage, done)
        place.clear()
        return done

    def _fitted(
        self,
        job: Job,
        folder: Path,
        callback: Callable[[StepReport], Any],
        cancel: threading.Event | None,
        begin: float,
    ) -> ConceptPack:
        config = self.personalizer.default_config(job.preset, job.method, **job.settings)
        while True:
            try:
                return self.personalizer.fit(
                    job.image,
                    list(job.concepts),
                    method=job.method,
                    config=config,
                    seed=job.seed,
                    masks=list(job.masks) or None,
                    output_dir=folder,
                    resume=True,
                    callback=callback,
                    cancel=cancel,
                )
            except BusyError:  # a worker of a fleet that was killed is at it, and ends after its step
                check_cancelled(cancel)
                if time.monotonic() - begin > _PATIENCE:
                    raise
                time.sleep(0.2)
