"""Many fits: what is done is left alone, what was begun goes on, what fails stops nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..disk.files import prepare_output_folder
from ..disk.folders import exclusive
from ..errors import SdkError
from ..fit.whole import whole_identity
from ..memory.budget import AUTO, free_memory
from ..rules.arguments import cancelling, path, to_be_called, whole
from ..runtime import Phase, Progress
from .jobs import Job, job_id
from .outcomes import PACKS, RECORDS, FleetResult, Outcome, recorded
from .processes import Workers
from .tables import Refused, read_jobs
from .worker import Loading, Task, work

_MOST_WORKERS = 1024


def fit_many(
    jobs: str | Path | Iterable[Job | Mapping[str, Any]],
    output: str | Path,
    *,
    model: str | Path = "bundled",
    workers: int = 1,
    threads: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: float | str = "auto",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> FleetResult:
    """Fit a table of jobs, and leave a pack of each in ``output``, with a table and a page of what came of them.

    A job's id is made of its pictures, settings, seed, the base model and the version of this package, and its pack is
    ``packs/ID``: called again, what is done is left alone, what was begun goes on from its checkpoint, to the same
    bits, and what failed is tried again. A row that is wrong, or a fit that fails, ends as a line with its reason.

    Args:
        jobs: a table (``.csv``, ``.jsonl``, ``.parquet``; see :func:`read_jobs`), or :class:`Job` objects or rows.
        output: a folder.
        model: see :meth:`sdk.Personalizer.from_pretrained`, as ``device``, ``dtype`` and ``options``.
        workers: processes that fit at once; 1: none but this one. With more, a script's own lines stand below
            ``if __name__ == "__main__":``, for every process imports it.
        threads: of torch in each worker; default the processor's cores shared among them. Other threads, other last
            bits.
        memory: as in ``from_pretrained``, of each worker; ``"auto"``: what is free, shared among them.
        progress: called as jobs are done, phase ``"fleet"``.
        cancel: once set, :class:`sdk.runtime.Cancelled` is raised after checkpoints are saved.

    Returns:
        What came of each row.

    Raises:
        SdkError: no table, no such base model, an output that cannot be written or that another fleet writes to.
    """
    rows = read_jobs(jobs)
    whole(workers, "workers", 1, _MOST_WORKERS)
    share = max((os.cpu_count() or 1) // workers, 1) if threads is None else whole(threads, "threads", 1, 1024)
    to_be_called(progress, "progress")
    cancelling(cancel)
    folder = prepare_output_folder(path(output, "output")).absolute()
    loading = Loading(model, device, dtype, memory, options)
    with exclusive(folder, f"another fleet writes to {output}; wait until it is done, or give another folder"):
        for name in (PACKS, RECORDS):
            (folder / name).mkdir(exist_ok=True)
        return _fitted(rows, folder, loading, workers, share, progress, cancel)


def _fitted(
    rows: list[Job | Refused],
    folder: Path,
    loading: Loading,
    workers: int,
    threads: int,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> FleetResult:
    personalizer = loading.load()
    base = whole_identity(personalizer) | {"device": personalizer.device.type}
    found: list[Outcome | None] = []
    waiting: dict[str, list[int]] = {}  # rows by job: two that ask for the same share a fit
    tasks: list[Task] = []
    for row in rows:
        if isinstance(row, Refused):
            found.append(Outcome(row.name, "failed", row.reason))
            continue
        try:
            key = job_id(row, base)
        except SdkError as error:
            found.append(Outcome(row.shown, "failed", str(error)))
            continue
        found.append(recorded(folder, key, row.shown))
        if found[-1] is None:
            if key not in waiting:
                tasks.append(Task(row, key, base))
            waiting.setdefault(key, []).append(len(found) - 1)
    phase = Phase("fleet", len(rows), progress, cancel, len(rows) - sum(map(len, waiting.values())))
    if workers == 1:
        ends = _here(personalizer, tasks, folder, threads, cancel)
    else:
        if loading.memory == AUTO:  # each would take all that is free
            loading = replace(loading, memory=free_memory(personalizer.device) / workers / 1e9)
        del personalizer
        ends = Workers(folder, loading, workers, threads).do(tasks, cancel)
    for end in ends:
        for place in waiting[end.id]:
            row = rows[place]
            assert isinstance(row, Job)
            found[place] = replace(end, name=row.shown)
        phase.step(len(waiting[end.id]))
    result = FleetResult([each for each in found if each is not None], folder, len(tasks))
    result.write()
    return result


def _here(
    personalizer: Any, tasks: list[Task], folder: Path, threads: int, cancel: threading.Event | None
) -> Iterator[Outcome]:
    """Do jobs one after the other in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for task in tasks:
            yield work(personalizer, task, folder, cancel)
    finally:
        torch.set_num_threads(before)
