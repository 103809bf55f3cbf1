"""Workers as actors of a Ray cluster, on as many machines as it has."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray

from ...errors import InputError, OutputError, SdkError
from ...printable import printable
from ...runtime import Cancelled, keep_memory, quiet
from ..outcomes import Outcome
from ..storage import Storage
from ..tasks import Loading, Task
from .engine import Died, Engine, Ready, Said

log = logging.getLogger("sdk")
_PATIENCE = 60.0  # seconds for a step, and for the checkpoint after it
_DEAD = 30.0  # seconds until the cluster knows that a machine is gone


def connect(address: str | None) -> bool:
    """Connect to a cluster, or start one on this machine; whether this call did, and not the program before.

    Args:
        address: ``"auto"``, ``host:port``, ``ray://...``; ``None``: a cluster of this machine alone.

    Raises:
        InputError: there is no cluster.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a share of a GPU keep their view
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"there is no Ray cluster at {printable(address)}: {printable(error, 200)}; start one by "
            "`ray start --head`, or give its address"
        ) from error
    return True


def warn_without_room(cpus: float, gpus: float) -> None:
    """Say that a worker waits for a machine, if the cluster has none that is large enough."""
    wanted = {"CPU": cpus, "GPU": gpus}
    there = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    if not any(all(node.get(kind, 0) >= count for kind, count in wanted.items()) for node in there):
        log.warning(
            "no machine of the cluster has %g cores and %g GPUs for a worker: waiting for one; or ask for fewer "
            "cpus and gpus",
            cpus,
            gpus,
        )


class Cluster(Engine):
    """Actors of a cluster.

    Args:
        place: the fleet's output, which every machine reaches.
        loading: how a worker loads the base model.
        workers: at most; ``None``: as many as the cluster has room for, looked at again and again.
        threads: of torch in each.
        cpus: processor cores that a worker is given.
        gpus: of a GPU, likewise; several share one by fractions.
        address: see :func:`connect`.
    """

    def __init__(
        self,
        place: str,
        loading: Loading,
        workers: int | None,
        threads: int,
        cpus: float,
        gpus: float,
        address: str | None,
    ) -> None:
        self.workers, self.cpus, self.gpus = workers, cpus, gpus
        self._given = (place, loading, threads, cpus, gpus)
        self._mine = connect(address)
        self._answers: dict[Any, Any] = {}  # what workers were asked and have not answered yet
        self._nodes: dict[Any, str] = {}  # the machines that they are on, once their models are loaded
        self._actor = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_concurrency=2)

    @property
    def most(self) -> int:
        if self.workers is not None:
            return self.workers
        there = ray.cluster_resources()
        room = [there.get(kind, 0) / each for kind, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each]
        return max(int(min(room, default=1)), 1)

    def begin(self) -> Any:
        warn_without_room(self.cpus, self.gpus)
        actor: Any = self._actor.remote(*self._given)
        self._answers[actor] = actor.begun.remote()
        return actor

    def give(self, worker: Any, task: Task) -> None:
        self._answers[worker] = worker.work.remote(task.carrying())

    def heard(self, workers: Sequence[Any], seconds: float) -> list[tuple[Any, Said]]:
        waiting = {self._answers[each]: each for each in workers if each in self._answers}
        if not waiting:
            time.sleep(seconds)
            return []
        first, _ = ray.wait(list(waiting), timeout=seconds)
        if not first:
            return []
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [(waiting[answer], self._said(waiting[answer], answer)) for answer in ready]

    def _said(self, worker: Any, answer: Any) -> Said:
        del self._answers[worker]
        try:
            said = ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # a mistake of the program, in the worker
            log.error("a worker failed: %s", error)
            ray.kill(worker)
            return Died()
        except ray.exceptions.RayError as error:
            log.warning("a worker died: %s", printable(error, 500))
            return Died(by_job=not getattr(error, "preempted", False) and self._machine_lives(worker))
        if isinstance(said, tuple):
            self._nodes[worker], said = said
        return said

    def _machine_lives(self, worker: Any) -> bool:
        """Whether a dead worker's machine is still there; the cluster notices a little later than the worker's end."""
        node, end = self._nodes.get(worker), time.monotonic() + _DEAD
        if node is None:
            return True
        while time.monotonic() < end:
            there = {each["NodeID"]: each["Alive"] for each in ray.nodes()}
            if not there.get(node):
                return False
            if _answers(node):
                return True
        return False

    def end(self, workers: Sequence[Any]) -> None:
        # Who is still being placed, or loads its model, has nothing to save.
        asked = [self._answers[each] for each in workers if each in self._answers and each in self._nodes]
        for each in workers:
            each.stop.remote()
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE)
        for each in workers:
            ray.kill(each)
        self._answers.clear()

    def close(self) -> None:
        if self._mine:
            ray.shutdown()


def _answers(node: str) -> bool:
    """Whether a machine still runs what it is given."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    asked = ray.remote(num_cpus=0, max_retries=0)(_nothing).options(scheduling_strategy=there).remote()
    with suppress(ray.exceptions.RayError):
        ray.get(asked, timeout=5)
        return True
    return False


def _nothing() -> None:
    return None


class _Actor:
    """A worker in a process of the cluster; one thread works while another one may be asked to stop it."""

    def __init__(self, place: str, loading: Loading, threads: int, cpus: float, gpus: float) -> None:
        from ..worker import Worker  # what draws takes seconds to load: here, not where jobs are handed out

        keep_memory()
        quiet()
        self._cancel = threading.Event()
        self._begun: Ready | SdkError
        try:
            self._worker = Worker(loading, Storage(place), threads, share_of_memory(cpus, gpus), shares=True)
            self._begun = Ready(self._worker.base)
        except SdkError as error:
            self._begun = error

    def begun(self) -> tuple[str, Ready | SdkError]:
        """Return the machine, and what came of loading."""
        return _node(), self._begun

    def work(self, task: Task) -> Outcome:
        """Do a job."""
        try:
            return self._worker.work(task, self._cancel)
        except Cancelled as error:
            raise OutputError("the fleet ended") from error  # nobody listens any more

    def stop(self) -> None:
        """Let the job at hand save its checkpoint and end."""
        self._cancel.set()


def share_of_memory(cpus: float, gpus: float) -> float:
    """Return which share of its machine's memory a worker may take that has so many cores and so much of a GPU."""
    cores = next(each["Resources"].get("CPU", 1) for each in ray.nodes() if each["NodeID"] == _node())
    return min(gpus or cpus / max(cores, 1), 1.0)


def _node() -> str:
    return ray.get_runtime_context().get_node_id()
