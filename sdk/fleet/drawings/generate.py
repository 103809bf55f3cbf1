"""Many pictures: those that are there are left alone, and what cannot be drawn stops no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, OutputError, SdkError
from ...rules.arguments import cancelling, number, optional, path, to_be_called, whole
from ...rules.drawing import check_scheduler_name
from ...rules.speed import check_speed
from ...runtime import Phase, Progress, check_cancelled
from ...serve.drawing.painter import How
from ..fits import ENGINES, check_shares
from ..reports import write_tables
from ..storage import Storage
from ..tables import Refused, read_table
from ..tasks import Loading
from .brush import Brush
from .drawing import COLUMNS, PICTURES, Drawing, Drawn, drawing_id, drawing_of, outcome, pack_mark

TABLE = "pictures"  # .csv and .parquet in the output
Wanted = tuple[Drawing, str, str]  # a row, the mark of its pack, its id
_MOST_WORKERS = 1024


@dataclass(frozen=True)
class DrawnMany:
    """What came of all rows, in the table's order.

    Attributes:
        outcomes: one per row.
        output: where the pictures are, as it was given.
        drawn: how many pictures this call tried to draw; others were there before.
        seconds: that the call took.
    """

    outcomes: list[Drawn]
    output: str
    drawn: int
    seconds: float

    @property
    def failed(self) -> list[Drawn]:
        """The rows that have no picture."""
        return [each for each in self.outcomes if each.status != "done"]


def generate_many(
    rows: str | Path | Iterable[Drawing | Mapping[str, Any]],
    output: str | Path,
    *,
    model: str | Path = "bundled",
    engine: str = "local",
    workers: int = 1,
    threads: int | None = None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    scheduler: str | None = None,
    speed: str = "exact",
    width: int | None = None,
    height: int | None = None,
    pack_memory: float = 1.0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: float | str = "auto",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> DrawnMany:
    """Draw a table of prompts, each with a pack of its own, and leave the pictures and a table in ``output``.

    Rows of different packs share batches. A picture's id is made of its prompts, seed, pack, the base model and how it
    is drawn: called again, those that are there are left alone. A row that is wrong ends as a line with its reason.

    Args:
        rows: a table (``.csv``, ``.jsonl``, ``.parquet``) with columns ``prompt``, ``pack`` (a folder or an address),
            ``negative_prompt``, ``seed`` and ``name``, of which ``prompt`` is needed; or :class:`Drawing` objects.
        output: a folder, or an address that fsspec reaches: ``pictures/ID.png`` and tables.
        model: see :meth:`sdk.Personalizer.from_pretrained`, as ``device``, ``dtype`` and ``options``.
        engine: ``"local"``: this process; ``"ray"``: Ray Data on a cluster, whose machines all reach packs and output.
        workers: actors of Ray that draw at once; local: 1.
        threads: of torch in each; default its cores.
        address: of the Ray cluster; default one of this machine, begun for the call.
        cpus: cores that Ray keeps for each worker.
        gpus: of a GPU, likewise.
        num_inference_steps: see :meth:`sdk.Personalizer.generate`, as the next ones; of all rows.
        guidance_scale: see there.
        scheduler: likewise, a name.
        speed: likewise.
        width: likewise, pixels.
        height: likewise.
        pack_memory: GB of packs that a worker keeps; those used least lately go first.
        memory: as in ``from_pretrained``, of each worker.
        progress: called as pictures are done, phase ``"draw"``.
        cancel: once set, :class:`sdk.runtime.Cancelled` is raised; what is drawn stays.

    Raises:
        SdkError: no table, no such base model, an output that cannot be written.
        ModuleNotFoundError: Ray is not installed; the message says what to install.
    """
    begin = time.monotonic()
    given = read_table(rows, Drawing, drawing_of, COLUMNS, ("prompt",))
    if engine not in ENGINES:
        raise InputError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
    whole(workers, "workers", 1, _MOST_WORKERS)
    if engine == "local" and workers != 1:
        raise InputError("the local engine draws in this process, with all its threads; leave workers out, or use Ray")
    check_shares(cpus, gpus)
    number(pack_memory, "pack_memory", 0, _MOST_WORKERS)
    for count, name in ((threads, "threads"), (num_inference_steps, "num_inference_steps")):
        if count is not None:
            whole(count, name, 1, _MOST_WORKERS)
    check_speed(speed, 1)
    scheduler = None if scheduler is None else check_scheduler_name(scheduler)
    to_be_called(progress, "progress")
    cancelling(cancel)
    path(output, "output")
    how = How(
        optional(width, int, "width"),
        optional(height, int, "height"),
        num_inference_steps,
        speed,
        scheduler,
        guidance_scale,
    )
    storage = Storage(output)
    if storage.of_this_process and engine == "ray":
        raise InputError("memory: is this process's own; give an output that every worker reaches")
    loading = Loading(model, device, dtype, memory, options)
    budget = int(pack_memory * 1e9)
    brushes: Any
    if engine == "ray":
        from .on_ray import RayBrushes

        place = str(storage.local or storage.place)
        given_to = (loading, place, how, budget, threads or max(int(cpus), 1))
        brushes = RayBrushes(given_to, workers, cpus, gpus, address, cancel)
    else:
        brushes = _Here(Brush(loading, storage, how, budget, threads))
    with brushes:
        outcomes, drawn = _drawn(given, storage, how, brushes, progress, cancel)
    return DrawnMany(outcomes, storage.place, drawn, time.monotonic() - begin)


class _Here:
    """Draws in this process."""

    def __init__(self, brush: Brush) -> None:
        self.brush, self.base = brush, brush.base

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *of: Any) -> None:
        return None

    def draw(self, rows: Sequence[Wanted]) -> Iterator[Drawn]:
        """Yield what came of rows, in any order."""
        for first in range(0, len(rows), self.brush.most):
            yield from self.brush.draw(rows[first : first + self.brush.most])


def _drawn(
    given: Sequence[Drawing | Refused],
    storage: Storage,
    how: How,
    brushes: Any,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> tuple[list[Drawn], int]:
    """Draw what is not there; return what came of each row, and how many were drawn."""
    found: list[Drawn | None] = [None] * len(given)
    waiting: dict[str, list[int]] = {}
    wanted: list[Wanted] = []
    marks: dict[str, str | SdkError] = {}
    there = storage.names(PICTURES)
    for place, row in enumerate(given):
        if isinstance(row, Refused):
            found[place] = Drawn(row.name, "failed", row.reason, "", "", "", "", 0, "")
            continue
        mark = _mark(row.pack, marks)
        if isinstance(mark, SdkError):
            found[place] = outcome(row, "", str(mark))
            continue
        id = drawing_id(row, mark, brushes.base, how)
        if f"{id}.png" in there:
            found[place] = outcome(row, id)
            continue
        if id not in waiting:
            wanted.append((row, mark, id))
        waiting.setdefault(id, []).append(place)
    wanted.sort(key=lambda each: each[1])  # each pack is read once
    phase = Phase("draw", len(given), progress, cancel, len(given) - sum(map(len, waiting.values())))
    try:
        for end in brushes.draw(wanted):
            for place in waiting[end.id]:
                row = given[place]
                assert isinstance(row, Drawing)
                found[place] = outcome(row, end.id, end.reason)
            phase.step(len(waiting[end.id]))
            check_cancelled(cancel)
    except BaseException:
        with suppress(OutputError):  # why it ended is what is to be told
            write_tables(storage, TABLE, Drawn, [each for each in found if each is not None])
        raise
    so_far = [each for each in found if each is not None]
    write_tables(storage, TABLE, Drawn, so_far)
    return so_far, len(wanted)


def _mark(pack: str, marks: dict[str, str | SdkError]) -> str | SdkError:
    if pack not in marks:
        try:
            marks[pack] = pack_mark(pack)
        except SdkError as error:
            marks[pack] = error
    return marks[pack]
