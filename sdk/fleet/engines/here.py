"""One worker in this very process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..storage import Storage
from ..tasks import Loading, Task
from ..worker import Worker
from .engine import Engine, Ready, Said


class Here(Engine):
    """No process but this one.

    Args:
        storage: the fleet's output.
        loading: how the base model is loaded.
        threads: of torch in a fit.
        cancel: once set, a fit saves its checkpoint and raises :class:`sdk.runtime.Cancelled`.
    """

    def __init__(self, storage: Storage, loading: Loading, threads: int, cancel: threading.Event | None) -> None:
        self.storage, self.loading, self.threads, self.cancel = storage, loading, threads, cancel
        self._task: Task | None = None
        self._new: Worker | None = None

    @property
    def most(self) -> int:
        return 1

    def begin(self) -> Worker:
        self._new = Worker(self.loading, self.storage, self.threads)
        return self._new

    def give(self, worker: Worker, task: Task) -> None:
        self._task = task

    def heard(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Said]]:
        if self._new is not None:
            new, self._new = self._new, None
            return [(new, Ready(new.base))]
        if self._task is None:
            return []
        task, self._task = self._task, None
        return [(workers[0], workers[0].work(task, self.cancel))]

    def end(self, workers: Sequence[Worker]) -> None:
        self._task = self._new = None

    def close(self) -> None:
        return None
