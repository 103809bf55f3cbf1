"""One worker of a fleet: a base model, loaded once, and the fits that it is given."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ..disk.caching import cache_folder, sharing
from ..disk.files import write_bytes
from ..disk.folders import BusyError
from ..errors import InputError, SdkError
from ..fit import StepReport
from ..fit.kept.checkpoint import CHECKPOINT
from ..fit.kept.metrics import METRICS
from ..fit.kept.output import unfinished
from ..fit.whole import whole_identity
from ..memory.budget import AUTO, free_memory
from ..model.base_model import usable_device
from ..pack import MANIFEST, ConceptPack
from ..personalizer import Personalizer
from ..printable import printable
from ..runtime import Cancelled, check_cancelled
from .jobs import Job, contents, job_id
from .outcomes import Outcome
from .records import PACKS, record
from .storage import Storage, is_address, packed, unpack

CHECKPOINTS = "checkpoints"  # of fits under way, where the output is no folder
_LAST = 20  # steps whose losses a fit is judged by
_PATIENCE = 60.0  # seconds: a worker whose fleet was killed ends within a step


@dataclass(frozen=True)
class Task:
    """A job that is to be done.

    Attributes:
        job: what is asked for.
        id: its id.
        base: what of that is the base model's, see :func:`sdk.fleet.jobs.job_id`.
        files: the contents of its picture and masks, where a worker may not see the files.
    """

    job: Job
    id: str
    base: dict[str, str]
    files: tuple[bytes, ...] | None = None

    def carrying(self) -> Task:
        """Return the same with the contents of its files.

        Raises:
            SdkError: they cannot be read, or are no longer what they were.
        """
        found = replace(self, files=tuple(contents(self.job)))
        found.check()
        return found

    def check(self) -> None:
        """Raise :class:`InputError` if a picture is no longer what it was: its pack would have another id."""
        if job_id(self.job, self.base, self.files) != self.id:
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


def loaded(loading: Loading, share: float) -> Personalizer:
    """Load a base model, for a share of the free memory where it is this package that decides."""
    if loading.memory == AUTO and share < 1:
        loading = replace(loading, memory=free_memory(usable_device(loading.device)) * share / 1e9)
    return loading.load()


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
        begin = time.monotonic()
        losses: list[float] = []
        if task.files is None and any(is_address(file) for file in (task.job.image, *task.job.masks)):
            task = task.carrying()
        task.check()
        place = _Place(self.storage, task.id)
        job = place.with_files(task)
        place.fetch()

        def callback(step: StepReport) -> None:
            losses.append(step.losses["loss"])
            place.keep()

        pack = self._fitted(job, place.folder, callback, cancel, begin)
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


class _Place:
    """Where a fit writes: in the output if that is a folder, else on this machine, with checkpoints in the output."""

    def __init__(self, storage: Storage, id: str) -> None:
        self.storage, self.id = storage, id
        mine = cache_folder() / "fleet" / hashlib.sha256(storage.place.encode()).hexdigest()[:16]
        self.folder = (mine if storage.local is None else storage.local) / PACKS / id
        self.files = mine / "files" / id
        self._kept = 0  # when the checkpoint was written that the output has

    def with_files(self, task: Task) -> Job:
        """Return the job with paths that this machine knows."""
        if task.files is None:
            return task.job
        self.files.mkdir(parents=True, exist_ok=True)
        paths = [self.files / str(number) for number in range(len(task.files))]
        for path, content in zip(paths, task.files, strict=True):
            write_bytes(path, content)
        return replace(task.job, image=paths[0], masks=tuple(paths[1:]))

    def fetch(self) -> None:
        """Take the checkpoint of a worker on another machine, if this one has none."""
        if self.storage.local is not None or unfinished(self.folder) is not None or self.folder.exists():
            return
        data = self.storage.read(self._checkpoint)
        if data is not None:
            unpack(data, self.folder.with_name(f"{self.id}.partial"))

    def keep(self) -> None:
        """Let workers on other machines go on from a checkpoint that was written since the last call."""
        work = None if self.storage.local is not None else unfinished(self.folder)
        if work is None:
            return
        state = (work / CHECKPOINT).stat().st_mtime_ns
        if state != self._kept:
            self.storage.write(self._checkpoint, packed(work, (CHECKPOINT, METRICS)))
            self._kept = state

    def put(self) -> None:
        """Let the pack appear in the output, its manifest last."""
        if self.storage.local is None:
            files = sorted(each for each in self.folder.rglob("*") if each.is_file())
            for file in sorted(files, key=lambda each: each.name == MANIFEST):
                name = file.relative_to(self.folder).as_posix()
                self.storage.write(f"{PACKS}/{self.id}/{name}", file.read_bytes())

    def clear(self) -> None:
        """Remove what is needed no more, once the job is recorded."""
        shutil.rmtree(self.files, ignore_errors=True)
        if self.storage.local is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.storage.remove(self._checkpoint)

    @property
    def _checkpoint(self) -> str:
        return f"{CHECKPOINTS}/{self.id}.tar"
