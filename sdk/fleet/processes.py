"""Several workers on this machine, each a process of its own, so that one that dies takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..errors import OutputError, SdkError
from ..runtime import Cancelled, check_cancelled
from .outcomes import Outcome
from .worker import Loading, Task, work

DEATHS = 3  # of workers at one job, before the job is given up
_LOOKS = 0.5  # seconds between two looks at whether more is wanted
_PATIENCE = 60.0  # seconds for a step, and for the checkpoint after it


@dataclass
class _Worker:
    """A process, the pipe to it, and what it is at."""

    process: Any
    pipe: Connection
    task: Task | None = None


class Workers:
    """Processes that do jobs; a job whose worker died is done again, from its checkpoint.

    Args:
        folder: the fleet's output.
        loading: how a worker loads the base model.
        workers: processes at most.
        threads: of torch in each.
    """

    def __init__(self, folder: Path, loading: Loading, workers: int, threads: int) -> None:
        self.given, self.most = (folder, loading, threads), workers
        self.left: deque[Task] = deque()
        self.there: list[_Worker] = []
        self.deaths: Counter[str] = Counter()  # by job, and "" of those that had none yet

    def do(self, tasks: Sequence[Task], cancel: threading.Event | None) -> Iterator[Outcome]:
        """Yield what came of each job, as they end.

        Args:
            tasks: what is to be done.
            cancel: once set, workers save checkpoints and end, and :class:`sdk.runtime.Cancelled` is raised.

        Raises:
            SdkError: the base model cannot be loaded.
            OutputError: workers die before they have a job.
        """
        self.left.extend(tasks)
        try:
            while wanted := len(self.left) + sum(each.task is not None for each in self.there):
                check_cancelled(cancel)
                while len(self.there) < min(self.most, wanted):
                    self.there.append(self._begun())
                for pipe in wait([each.pipe for each in self.there], _LOOKS):
                    worker = next(each for each in self.there if each.pipe is pipe)
                    outcome = self._heard(worker)
                    if outcome is not None:
                        yield outcome
        finally:
            self._end()

    def _begun(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share locks and threads with what is here
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self.given), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        return _Worker(process, mine)

    def _heard(self, worker: _Worker) -> Outcome | None:
        """Take what a worker says, and give it a job; return what came of its last one."""
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            return self._died(worker)
        if isinstance(said, SdkError):
            raise said
        self.deaths[""] = 0
        worker.task = self.left.popleft() if self.left else None
        if worker.task is not None:
            with suppress(OSError):  # it died meanwhile; the next look says so
                worker.pipe.send(worker.task)
        return said if isinstance(said, Outcome) else None

    def _died(self, worker: _Worker) -> Outcome | None:
        """Put a dead worker's job back, or give it up."""
        self.there.remove(worker)
        worker.process.join()
        task = worker.task
        self.deaths["" if task is None else task.id] += 1
        if task is None:
            if self.deaths[""] > DEATHS:
                raise OutputError(
                    "workers die before they have a job: give fewer of them, and in a script call fit_many below "
                    "if __name__ == '__main__'"
                )
            return None
        if self.deaths[task.id] < DEATHS:
            self.left.appendleft(task)
            return None
        reason = f"the worker died {DEATHS} times at it (killed, or memory ran out); give fewer workers"
        return Outcome(task.job.shown, "failed", reason, task.id)

    def _end(self) -> None:
        """Let workers end: an idle one at once, one at work when its checkpoint is saved."""
        for each in self.there:
            each.pipe.close()
        for each in self.there:
            each.process.join(_PATIENCE)
            if each.process.is_alive():
                each.process.kill()
        self.there.clear()


def _serve(pipe: Connection, folder: Path, loading: Loading, threads: int) -> None:
    """What a worker's process does: load the model, and do jobs until nobody is at the other end of the pipe."""
    import signal

    import torch

    from ..runtime import keep_memory, quiet

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked, who then closes the pipe
    torch.set_num_threads(threads)
    keep_memory()
    quiet()
    try:
        personalizer = loading.load()
    except SdkError as error:
        with suppress(OSError):
            pipe.send(error)
        return
    given: deque[Task] = deque()
    more, gone = threading.Semaphore(0), threading.Event()

    def listen() -> None:
        """Notice that the fleet has ended also while a fit runs."""
        with suppress(EOFError, OSError):
            while True:
                given.append(pipe.recv())
                more.release()
        gone.set()
        more.release()

    threading.Thread(target=listen, daemon=True).start()
    with suppress(OSError, Cancelled):
        pipe.send("ready")
        while True:
            more.acquire()
            if gone.is_set():
                break
            pipe.send(work(personalizer, given.popleft(), folder, gone))
    os._exit(0)  # without waiting for the thread that listens
