"""Drawing through Ray Data: rows stream to actors in batches, and come back as they are done."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data

from ...errors import InputError, OutputError, SdkError
from ...printable import printable
from ...runtime import check_cancelled, keep_memory, quiet
from ..engines.ray import connect, share_of_memory, warn_without_room
from ..storage import Storage
from .brush import Brush
from .drawing import Drawing, Drawn

_DEATHS = 10  # of a worker, or at a batch, before the call ends
_LOOKS = 0.5  # seconds between two looks at whether more is wanted
_MOST_BLOCKS = 20_000  # tasks, which the cluster's head keeps books of


class RayBrushes:
    """Actors that draw; a context manager.

    Args:
        given: to each: loading, output, how, bytes of packs, threads.
        workers: actors.
        cpus: cores of each.
        gpus: of a GPU, likewise.
        address: of the cluster.
        cancel: once set, :class:`sdk.runtime.Cancelled` is raised.

    Attributes:
        base: what ids of pictures depend on.
        most: rows of a batch.
    """

    def __init__(
        self,
        given: tuple,
        workers: int,
        cpus: float,
        gpus: float,
        address: str | None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.given, self.workers, self.cpus, self.gpus = given, workers, cpus, gpus
        self._mine = connect(address)
        self.base: dict[str, str]
        try:
            probe = ray.remote(num_cpus=cpus, num_gpus=gpus)(_look).remote(given, cpus, gpus)
            warn_without_room(cpus, gpus)
            while not ray.wait([probe], timeout=_LOOKS)[0]:
                check_cancelled(cancel)
            said = ray.get(probe)
        except BaseException:
            self._close()
            raise
        if isinstance(said, SdkError):
            self._close()
            raise said
        self.base, self.most = said

    def __enter__(self) -> RayBrushes:
        return self

    def __exit__(self, *of: Any) -> None:
        self._close()

    def draw(self, rows: Sequence[tuple[Drawing, str, str]]) -> Iterator[Drawn]:
        """Yield what came of rows, as it comes."""
        if not rows:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = [{"row": json.dumps([asdict(row), mark, id])} for row, mark, id in rows]
        blocks = min(-(-len(items) // self.most), _MOST_BLOCKS)
        drawn = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Drawing,
            fn_constructor_args=(self.given, self.cpus, self.gpus, self.base),
            ray_remote_args_fn=_patience,
            batch_size=self.most,
            concurrency=self.workers,
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        try:
            for row in drawn.iter_rows():
                yield Drawn(**json.loads(row["drawn"]))
        except ray.exceptions.RayError as error:
            raise OutputError(
                f"workers of the cluster failed ({printable(error, 300)}); what is drawn is kept, go on with the same "
                "call"
            ) from error

    def _close(self) -> None:
        if self._mine:
            ray.shutdown()


def _patience() -> dict[str, int]:
    """How often a worker may die; Ray's own default is for ever."""
    return {"max_restarts": _DEATHS, "max_task_retries": _DEATHS}


class _Drawing:
    """An actor's part: a model that is loaded once."""

    def __init__(self, given: tuple, cpus: float, gpus: float, base: dict[str, str]) -> None:
        self.brush = _brush(given, cpus, gpus)
        differing = sorted(name for name in {*base, *self.brush.base} if base.get(name) != self.brush.base.get(name))
        if differing:
            raise InputError(f"workers differ in {', '.join(differing)}; give them all the same model and libraries")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = []
        for text in batch["row"]:
            row, mark, id = json.loads(text)
            rows.append((Drawing(**row), mark, id))
        return {"drawn": np.array([json.dumps(asdict(each)) for each in self.brush.draw(rows)])}


def _brush(given: tuple, cpus: float, gpus: float) -> Brush:
    loading, place, how, budget, threads = given
    keep_memory()
    quiet()
    return Brush(loading, Storage(place), how, budget, threads, share_of_memory(cpus, gpus))


def _look(given: tuple, cpus: float, gpus: float) -> tuple[dict[str, str], int] | SdkError:
    """What ids depend on, as a worker sees it."""
    try:
        brush = _brush(given, cpus, gpus)
    except SdkError as error:
        return error
    return brush.base, brush.most
