"""Workers on this machine, each a process of its own, so that one that dies takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import SdkError
from ...runtime import Cancelled
from ..storage import Storage
from ..tasks import Loading, Task
from .engine import Died, Engine, Ready, Said

_PATIENCE = 60.0  # seconds for a step, and for the checkpoint after it


@dataclass(frozen=True, eq=False)
class Process:
    """A worker's process, and the pipe to it."""

    process: Any
    pipe: Connection


class Processes(Engine):
    """Several processes.

    Args:
        place: the fleet's output.
        loading: how a worker loads the base model.
        workers: at most.
        threads: of torch in each.
    """

    def __init__(self, place: str, loading: Loading, workers: int, threads: int) -> None:
        self.given, self.workers = (place, loading, threads, 1 / workers), workers
        self._ready: set[Process] = set()  # whose models are loaded

    @property
    def most(self) -> int:
        return self.workers

    def begin(self) -> Process:
        context = multiprocessing.get_context("spawn")  # a fork would share locks and threads with what is here
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self.given), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        return Process(process, mine)

    def give(self, worker: Process, task: Task) -> None:
        with suppress(OSError):  # it died meanwhile; the pipe's end says so
            worker.pipe.send(task)

    def heard(self, workers: Sequence[Process], seconds: float) -> list[tuple[Process, Said]]:
        ready = wait([each.pipe for each in workers], seconds)
        return [(each, self._said(each)) for each in workers if each.pipe in ready]

    def _said(self, worker: Process) -> Said:
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            return Died()
        if isinstance(said, Ready):
            self._ready.add(worker)
        return said

    def end(self, workers: Sequence[Process]) -> None:
        for each in workers:
            each.pipe.close()
            if each not in self._ready:  # who loads its model has nothing to save
                each.process.kill()
        for each in workers:
            each.process.join(_PATIENCE)
            if each.process.is_alive():
                each.process.kill()

    def close(self) -> None:
        return None


def _serve(pipe: Connection, place: str, loading: Loading, threads: int, share: float) -> None:
    """What a worker's process does: load the model, and do jobs until nobody is at the other end of the pipe."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked, who then closes the pipe
    from tqdm import tqdm

    from ...runtime import keep_memory, quiet
    from ..worker import Worker  # what draws takes seconds to load: here, while the fleet begins there

    keep_memory()
    quiet()
    tqdm.set_lock(threading.RLock())  # its own one is a semaphore of the system, which is left behind below
    try:
        worker = Worker(loading, Storage(place), threads, share)
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
        pipe.send(Ready(worker.base))
        while True:
            more.acquire()
            if gone.is_set():
                break
            pipe.send(worker.work(given.popleft(), gone))
    os._exit(0)  # without waiting for the thread that listens
