"""The server as an application of Ray Serve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray import serve

from ...errors import InputError
from ...printable import printable
from ...rules.arguments import number, of_type, path, text, whole
from ...serve import Limits
from ..fits import check_shares
from ..storage import Storage
from ..tasks import Loading
from .front import Front
from .replica import Drawer

_GRACE = 120.0  # seconds for what is being drawn when a replica is to end
_MOST = 10_000


def serve_app(
    packs: str | Path,
    *,
    model: str | Path = "bundled",
    replicas: int | tuple[int, int] = 1,
    fronts: int = 1,
    packs_per_replica: int = 64,
    cpus: float = 1.0,
    gpus: float = 0.0,
    threads: int | None = None,
    target_ongoing_requests: float = 16.0,
    tokens: Sequence[str] = (),
    limits: Limits | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: float | str = "auto",
    **options: Any,
) -> serve.Application:
    """Return the server for ``ray.serve.run``: the requests of ``personalizer serve``, answered by many replicas.

    A request for a pack goes to a replica that has it, if one does; within a replica requests with different packs
    share batches. A replica that dies is replaced, and what it had not answered is asked of another one.

    >>> from ray import serve
    >>> serve.run(serve_app("s3://bucket/fleet", replicas=(2, 8), gpus=0.5))

    Args:
        packs: what :func:`fit_many` wrote to: a folder or an address that every machine reaches; ``packs/NAME`` are
            served by their names. What is sent is kept there, too.
        model: see :meth:`sdk.Personalizer.from_pretrained`, as ``device``, ``dtype`` and ``options``.
        replicas: that draw; a pair: the fewest and the most, as requests come.
        fronts: replicas that take requests.
        packs_per_replica: that each remembers; those used least lately go first. ``limits.packs`` bounds their bytes.
        cpus: cores of a replica that draws.
        gpus: of a GPU, likewise.
        threads: of torch in each; default its cores.
        target_ongoing_requests: for each replica, by which their number is chosen.
        tokens: of those who may ask; none: this machine alone may.
        limits: of requests, see :class:`sdk.serve.Limits`.
        memory: as in ``from_pretrained``; ``"auto"``: a replica's share of what is free.

    Raises:
        InputError: a value of another type.
    """
    path(packs, "packs")
    pair = replicas if isinstance(replicas, (tuple, list)) else (replicas, replicas)
    least, most = _pair(pair)
    for count, name in ((fronts, "fronts"), (packs_per_replica, "packs_per_replica")):
        whole(count, name, 1, _MOST)
    check_shares(cpus, gpus)
    number(target_ongoing_requests, "target_ongoing_requests", 0.01, _MOST)
    if isinstance(tokens, str):
        raise InputError("tokens are a list of texts, got one text")
    given_tokens = [text(token, "a token") for token in tokens]
    if not all(token.strip() for token in given_tokens):
        raise InputError("a token is empty; leave it out")
    limits = Limits() if limits is None else of_type(limits, Limits, "limits")
    storage = Storage(packs, writes=False)
    if storage.of_this_process:
        raise InputError("memory: is this process's own; give a place that every replica reaches")
    given = (Loading(model, device, dtype, memory, options), str(storage.local or storage.place), limits)
    how: dict[str, Any] = {"num_replicas": least}
    if most > least:
        scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target_ongoing_requests}
        how = {"autoscaling_config": scaling}
    # A class for each application: how many packs a replica remembers is stated at a method of it.
    held = serve.multiplexed(max_num_models_per_replica=packs_per_replica)(Drawer.held)
    drawers = serve.deployment(
        name="Drawer",
        max_ongoing_requests=limits.line,
        max_queued_requests=limits.line * most,
        graceful_shutdown_timeout_s=_GRACE,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        **how,
    )(type("Drawer", (Drawer,), {"held": held}))
    front = serve.deployment(
        name="Front",
        num_replicas=fronts,
        max_ongoing_requests=_MOST,
        graceful_shutdown_timeout_s=_GRACE,
        ray_actor_options={"num_cpus": 0},
    )(Front)
    return front.bind(drawers.bind(*given, threads or max(int(cpus), 1), cpus, gpus), given_tokens, limits)


def build(args: dict[str, Any]) -> serve.Application:
    """Return the server for a deploy file of Ray Serve: ``import_path: sdk.fleet.serving.application:build``.

    Args:
        args: of the file: the keywords of :func:`serve_app`, ``packs`` among them; ``limits`` is a table. Tokens come
            from the variable ``PERSONALIZER_TOKENS`` of the machine that builds it, by commas, never from the file.

    Raises:
        InputError: no packs, an unknown keyword, or a value of another type.
    """
    given = dict(args)
    if "packs" not in given:
        raise InputError("the deploy file's args have no packs; give the folder or address of them")
    if "tokens" in given:
        raise InputError("tokens do not belong into a file; set PERSONALIZER_TOKENS where the server is built")
    given["tokens"] = [token.strip() for token in os.environ.get("PERSONALIZER_TOKENS", "").split(",") if token.strip()]
    try:
        if "limits" in given:
            given["limits"] = Limits(**given["limits"])
        return serve_app(given.pop("packs"), **given)
    except TypeError as error:
        raise InputError(f"the deploy file's args: {printable(error)}") from error


def _pair(replicas: Any) -> tuple[int, int]:
    try:
        least, most = replicas
    except (TypeError, ValueError):
        raise InputError(f"replicas is a number, or the fewest and the most, got {replicas!r}") from None
    least = whole(least, "replicas", 1, _MOST)
    return least, whole(most, "replicas", least, _MOST)
