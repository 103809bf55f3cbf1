"""A study's fits on a Ray cluster: each row as it comes, in any order; a worker that dies is replaced."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util import ActorPool

from benchmarks.study.scenes import Plan, run_scene
from sdk import Personalizer, quiet
from sdk.runtime import keep_memory

Fit = tuple[str, int, str]  # task, scene, arm


class Worker:
    """A base model, loaded once."""

    def __init__(self, base: str) -> None:
        import torch

        quiet()
        keep_memory()
        torch.set_num_threads(1)
        self.base = Personalizer.from_pretrained(base)

    def run(self, fit: Fit, plan: Plan) -> dict[str, Any]:
        """Return the row of one arm on one scene."""
        task, index, arm = fit
        (row,) = run_scene(self.base, [arm], task, index, plan)
        return row


def run_on_ray(
    base: str, fits: Sequence[Fit], plan: Plan, address: str | None, workers: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of fits.

    Args:
        base: a model of the drawn world, which every machine finds.
        fits: what is to be done.
        plan: how.
        address: of the cluster; ``None``: one of this machine.
        workers: fits at once; ``None``: as many as the cluster has cores.
    """
    if not fits:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
    try:
        count = min(workers or max(int(ray.cluster_resources().get("CPU", 1)), 1), len(fits))
        again = {"num_cpus": 1, "max_restarts": 3, "max_task_retries": 3}  # of fits whose worker died
        pool = ActorPool([ray.remote(**again)(Worker).remote(base) for _ in range(count)])
        yield from pool.map_unordered(lambda worker, fit: worker.run.remote(fit, plan), fits)
    finally:
        ray.shutdown()
