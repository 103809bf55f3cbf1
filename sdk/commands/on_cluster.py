"""Where the work of many is done: options of the commands that take tables."""

from __future__ import annotations

import argparse
from typing import Any


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command work on this machine or on a Ray cluster."""
    parser.add_argument("--threads", type=int, metavar="N", help="of each worker; default the cores it has")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="work on this Ray cluster: auto, host:port, or local for one begun here"
    )
    parser.add_argument(
        "--cpus", type=float, default=1.0, metavar="N", help="cores of a worker on a cluster; default 1"
    )
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="of a GPU, likewise: 0.25, four share one")


def cluster_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return these options as :func:`sdk.fleet.fit_many` names them."""
    address = arguments.address
    return {
        "engine": "local" if address is None else "ray",
        "address": None if address == "local" else address,
        "threads": arguments.threads,
        "cpus": arguments.cpus,
        "gpus": arguments.gpus,
    }
