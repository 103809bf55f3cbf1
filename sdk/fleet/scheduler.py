"""Who does what: jobs are given to workers, and those of a worker that died to another one."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError, OutputError, SdkError
from ..runtime import check_cancelled
from .engines.engine import Died, Engine, Ready, Said
from .outcomes import Outcome
from .tasks import Task

DEATHS = 3  # of workers at one job, before the job is given up
_LOOKS = 0.5  # seconds between two looks at whether more is wanted


class Scheduler:
    """Gives jobs to workers; a context manager, whose end lets them end.

    A job whose worker died is done again, from its checkpoint; after three such deaths it is given up.

    Args:
        engine: runs the workers.
        cancel: once set, workers save checkpoints and end, and :class:`sdk.runtime.Cancelled` is raised.
    """

    def __init__(self, engine: Engine, cancel: threading.Event | None = None) -> None:
        self.engine, self.cancel = engine, cancel
        self.base: dict[str, str] = {}
        self.left: deque[Task] = deque()
        self._at: dict[Any, tuple[Task, float] | None] = {}  # workers, and since when they are at what
        self._idle: list[Any] = []  # of them those that are ready and have nothing to do
        self._deaths: Counter[str] = Counter()  # by job, and "" of workers that had none yet

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *of: Any) -> None:
        self.engine.end(list(self._at))
        self._at.clear()
        self._idle.clear()
        self.engine.close()

    @property
    def running(self) -> list[tuple[str, float]]:
        """Names of jobs that are under way, and seconds since they were given."""
        now = time.monotonic()
        return [(at[0].job.shown, now - at[1]) for at in self._at.values() if at is not None]

    def identity(self) -> dict[str, str]:
        """Wait for the first worker, and return what of a job's id is the base model's.

        Raises:
            SdkError: the base model cannot be loaded.
            OutputError: workers die before they are ready.
        """
        while not self.base:
            check_cancelled(self.cancel)
            if not self._at:
                self.begin()
            self._hear()
        return self.base

    def do(self, tasks: Sequence[Task]) -> Iterator[Outcome | None]:
        """Yield what came of each job, as they end, and ``None`` now and then.

        Raises:
            InputError: workers whose base models are not the same.
            OutputError: workers die before they have a job.
        """
        self.left.extend(tasks)
        while self.left or any(self._at.values()):
            check_cancelled(self.cancel)
            while self._idle and self.left:
                yield self._give(self._idle.pop())
            busy = sum(at is not None for at in self._at.values())
            while len(self._at) < min(self.engine.most, busy + len(self.left)):
                self.begin()
            yield from self._hear()
            yield None

    def begin(self) -> None:
        """Let a worker begin: it loads the base model."""
        self._at[self.engine.begin()] = None

    def _give(self, worker: Any) -> Outcome | None:
        task = self.left.popleft()
        try:
            self.engine.give(worker, task)
        except SdkError as error:  # a file that went, or changed, since it was looked at
            self._idle.append(worker)
            return Outcome(task.job.shown, "failed", str(error), task.id)
        self._at[worker] = task, time.monotonic()
        return None

    def _hear(self) -> list[Outcome]:
        """Listen for a while, and return what came of jobs."""
        ended = [self._take(worker, said) for worker, said in self.engine.heard(list(self._at), _LOOKS)]
        return [each for each in ended if each is not None]

    def _take(self, worker: Any, said: Said) -> Outcome | None:
        if isinstance(said, Ready):
            self._check(said.base)
            self._deaths[""] = 0
        elif isinstance(said, Outcome):
            self._at[worker] = None
        else:
            return self._died(worker, said)
        self._idle.append(worker)
        return said if isinstance(said, Outcome) else None

    def _check(self, base: dict[str, str]) -> None:
        """Refuse a worker whose packs would be others'."""
        self.base = self.base or base
        differing = sorted(name for name in {*base, *self.base} if base.get(name) != self.base.get(name))
        if differing:
            raise InputError(
                f"workers differ in {', '.join(differing)}; give them all the same base model, libraries and kind of "
                "device"
            )

    def _died(self, worker: Any, why: Died | SdkError) -> Outcome | None:
        """Put a dead worker's job back, or give it up."""
        at = self._at.pop(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if at is None:
            if isinstance(why, SdkError) and not self.base:
                raise why
            self._deaths[""] += isinstance(why, SdkError) or why.by_job
            if self._deaths[""] <= DEATHS or any(each is not None for each in self._at.values()):
                return None
            if isinstance(why, SdkError):
                raise why
            raise OutputError(
                "workers die before they have a job: give fewer of them, and in a script call fit_many below "
                "if __name__ == '__main__'"
            )
        task, _ = at
        self._deaths[task.id] += isinstance(why, SdkError) or why.by_job
        if self._deaths[task.id] < DEATHS:
            self.left.appendleft(task)
            return None
        reason = f"the worker died {DEATHS} times at it (killed, or memory ran out); give fewer workers"
        return Outcome(task.job.shown, "failed", reason, task.id)
