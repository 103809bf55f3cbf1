"""Many fits: what is done is left alone, what was begun goes on, what fails stops nobody."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk.folders import exclusive
from ..errors import InputError, OutputError, SdkError
from ..lazy import naming_extras
from ..rules.arguments import cancelling, number, path, to_be_called, whole
from ..runtime import Phase, Progress, check_cancelled
from .engines.engine import Engine
from .jobs import Job, job_id
from .outcomes import FleetResult, Outcome, Status
from .records import named, recorded
from .reports import write_reports
from .scheduler import Scheduler
from .storage import Storage
from .tables import Refused, job_rows, jobs_of
from .tasks import Loading, Task

if TYPE_CHECKING:
    import torch

log = logging.getLogger("sdk")
ENGINES = ("local", "ray")
_MOST_WORKERS = 1024
_LIVE = 10.0  # seconds between two writings of the reports while a fleet runs


@naming_extras("sdk.fleet.fit_many")
def fit_many(
    jobs: str | Path | Iterable[Job | Mapping[str, Any]],
    output: str | Path,
    *,
    model: str | Path = "bundled",
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: float | str = "auto",
    progress: Progress | None = None,
    watch: Callable[[Status], Any] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> FleetResult:
    """Fit a table of jobs, and leave a pack of each in ``output``, with tables and a page of what came of them.

    A job's id is made of its pictures, settings, seed, the base model and the version of this package, and its pack is
    ``packs/ID``: called again, what is done is left alone, what was begun goes on from its checkpoint, to the same
    bits, and what failed is tried again. A row that is wrong, or a fit that fails, ends as a line with its reason.

    Args:
        jobs: a table (``.csv``, ``.jsonl``, ``.parquet``; see :func:`read_jobs`), or :class:`Job` objects or rows.
        output: a folder, or an address that fsspec reaches (``s3://bucket/name``).
        model: see :meth:`sdk.Personalizer.from_pretrained`, as ``device``, ``dtype`` and ``options``.
        engine: ``"local"``: processes of this machine; ``"ray"``: a Ray cluster, whose machines all reach the output.
        workers: that fit at once. Local: default 1, which is no process but this one; with more, a script's own lines
            stand below ``if __name__ == "__main__":``, for every process imports it. Ray: default as many as the
            cluster has room for.
        threads: of torch in each worker; default its cores. Other threads, other last bits.
        address: of the Ray cluster: ``"auto"``, ``host:port``; default one of this machine, begun for the call.
        cpus: cores that Ray keeps for each worker.
        gpus: of a GPU, likewise; 0.25: four workers share one.
        memory: as in ``from_pretrained``, of each worker; ``"auto"``: its share of what is free.
        progress: called as jobs are done, phase ``"fleet"``.
        watch: called now and then with how far it is.
        cancel: once set, :class:`sdk.runtime.Cancelled` is raised after checkpoints are saved.

    Returns:
        What came of each row.

    Raises:
        SdkError: no table, no such base model, an output that cannot be written or that another fleet writes to.
        ModuleNotFoundError: Ray, or what reads a table, is not installed; the message says what to install.
    """
    begin = time.monotonic()
    given = job_rows(jobs)
    if engine not in ENGINES:
        raise InputError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
    if workers is not None:
        whole(workers, "workers", 1, _MOST_WORKERS)
    check_shares(cpus, gpus)
    if threads is not None:
        whole(threads, "threads", 1, _MOST_WORKERS)
    to_be_called(progress, "progress")
    to_be_called(watch, "watch")
    cancelling(cancel)
    path(output, "output")
    storage = Storage(output)
    loading = Loading(model, device, dtype, memory, options)
    apart = engine == "ray" or workers not in (None, 1)  # whether others do the work than this process

    def engine_() -> Engine:  # what engines need takes a while to load, and only one is wanted
        if engine == "ray":
            from .engines.ray import Cluster

            place = str(storage.local or storage.place)
            return Cluster(place, loading, workers, threads or max(int(cpus), 1), cpus, gpus, address)
        share = threads or max((os.cpu_count() or 1) // (workers or 1), 1)
        if workers in (None, 1):
            from .engines.here import Here

            return Here(storage, loading, share, cancel)
        from .engines.local import Processes

        return Processes(str(storage.local or storage.place), loading, workers, share)

    if storage.of_this_process and apart:
        raise InputError("memory: is this process's own; give an output that every worker reaches")
    with _own(storage), Scheduler(engine_(), cancel) as scheduler:
        check_cancelled(cancel)
        if given.rows and apart:
            scheduler.begin()  # one loads the base model while this process looks at the rows
        rows = jobs_of(given)
        del given  # of a million rows it is a gigabyte
        return _Fleet(storage, rows, scheduler, begin, watch).run(progress, cancel)


def check_shares(cpus: float, gpus: float) -> None:
    """Refuse a worker of no cores and no GPU, and one of a GPU and a half, which no machine can give."""
    for value, name in ((cpus, "cpus"), (gpus, "gpus")):
        number(value, name, 0, _MOST_WORKERS)
        if value > 1 and value != int(value):
            raise InputError(f"{name} above 1 must be whole, got {value:g}")
    if not cpus and not gpus:
        raise InputError("a worker needs something to compute with; give cpus or gpus")


@contextmanager
def _own(storage: Storage) -> Iterator[None]:
    """Have a folder to oneself; of object storage there is no owner, and who writes the same writes the same bits."""
    busy = f"another fleet writes to {storage.place}; wait until it is done, or give another folder"
    with nullcontext() if storage.local is None else exclusive(storage.local, busy):
        yield


class _Fleet:
    """One call: its rows, and what came of them so far."""

    def __init__(
        self,
        storage: Storage,
        rows: list[Job | Refused],
        scheduler: Scheduler,
        begin: float,
        watch: Callable[[Status], Any] | None,
    ) -> None:
        self.storage, self.rows, self.scheduler, self.begin, self.watch = storage, rows, scheduler, begin, watch
        self.found: list[Outcome | None] = [None] * len(rows)
        self.waiting: dict[str, list[int]] = {}  # rows by job: two that ask for the same share a fit
        self.counts: Counter[str] = Counter()  # rows by what came of them
        self.ended, self.worked = 0, 0.0
        self._seen = self._written = time.monotonic()
        self._pause = _LIVE

    def run(self, progress: Progress | None, cancel: threading.Event | None) -> FleetResult:
        """Do what is to be done."""
        tasks = self._tasks()
        done = len(self.rows) - sum(map(len, self.waiting.values()))
        phase = Phase("fleet", len(self.rows), progress, cancel, done)
        self._seen = time.monotonic()
        try:
            for outcome in self.scheduler.do(tasks):
                if outcome is not None:
                    phase.step(self._note(outcome))
                self._tell()
        except BaseException:
            with suppress(OutputError):  # why it ended is what is to be told
                write_reports(self.storage, self._so_far(), self._status(), ended=True)
            raise
        write_reports(self.storage, self._so_far(), self._status(), ended=True)
        return FleetResult(
            self._so_far(), self.storage.place, len(tasks), time.monotonic() - self.begin, round(self.worked, 3)
        )

    def _tasks(self) -> list[Task]:
        """Look at what each row asks for, and whether that is done."""
        base = self.scheduler.identity() if any(isinstance(row, Job) for row in self.rows) else {}
        for place, row in enumerate(self.rows):
            try:
                if isinstance(row, Refused):
                    self.found[place] = Outcome(row.name, "failed", row.reason)
                else:
                    self.waiting.setdefault(job_id(row, base), []).append(place)
            except SdkError as error:
                self.found[place] = Outcome(self._job(place).shown, "failed", str(error))
        self.counts["failed"] = len(self._so_far())
        for key, outcome in recorded(self.storage, list(self.waiting)).items():
            self._put(outcome, self.waiting.pop(key))
        return [Task(self._job(places[0]), key, base) for key, places in self.waiting.items()]

    def _job(self, place: int) -> Job:
        row = self.rows[place]
        assert isinstance(row, Job)
        return row

    def _put(self, outcome: Outcome, places: list[int]) -> None:
        for place in places:
            self.found[place] = named(outcome, self._job(place).shown)
        self.counts[outcome.status] += len(places)

    def _note(self, outcome: Outcome) -> int:
        """Put down what came of a job; return how many rows asked for it."""
        self.ended += 1
        self.worked += outcome.seconds if outcome.status == "done" else 0.0
        places = self.waiting[outcome.id]
        self._put(outcome, places)
        return len(places)

    def _so_far(self) -> list[Outcome]:
        return [each for each in self.found if each is not None]

    def _status(self) -> Status:
        minutes = (time.monotonic() - self._seen) / 60
        rate = self.ended / minutes if minutes else 0.0
        return Status(len(self.rows), self.counts["done"], self.counts["failed"], self.scheduler.running, rate)

    def _tell(self) -> None:
        """Say how far it is, and now and then write it down; large tables less often, for that takes a while."""
        if self.watch is not None:
            self.watch(self._status())
        now = time.monotonic()
        if now - self._written > self._pause:
            try:
                write_reports(self.storage, self._so_far(), self._status(), ended=False)
            except OutputError as error:  # for a while: the fits go on, and the end writes them again
                log.warning("%s", error)
            self._written = time.monotonic()
            self._pause = max(_LIVE, 20 * (self._written - now))
