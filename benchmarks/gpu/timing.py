"""Seconds, in turns; and what a device does in its best case, so that fractions of it can be given."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sdk.errors import SdkError

Call = Callable[[], Any]
# What a way may fail with and the others go on: what is refused, not installed, not there, or too large.
FAILURES = (SdkError, ImportError, RuntimeError, OSError, ValueError)


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Call, device: torch.device) -> float:
    """Return the seconds that a call takes."""
    wait(device)
    begin = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begin


def reason_of(error: BaseException) -> str:
    """Return the first line of an error for a table."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace("|", "/")[:160]


def in_turns(
    calls: Mapping[str, Call], device: torch.device, rounds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Time calls in turns.

    Args:
        calls: by name.
        device: that they compute on.
        rounds: after a first one, in which whatever is set up once is set up.

    Returns:
        Median seconds of each, the seconds of its first time, and why those that failed have none.
    """
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            if name in failed:
                continue
            try:
                taken = seconds_of(call, device)
            except FAILURES as error:
                failed[name] = reason_of(error)
                release(device)
                continue
            if name in first:
                times.setdefault(name, []).append(taken)
            else:
                first[name] = taken
    medians = {name: statistics.median(each) for name, each in times.items() if name not in failed}
    return medians, {name: first[name] for name in medians}, failed


def release(device: torch.device) -> None:
    """Give back a GPU's memory that nothing uses, so that what comes next has all of it."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def product_ceiling(device: torch.device, side: int) -> float:
    """Return the FLOP/s of a square bfloat16 product: the most that anything else can reach."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    times = [seconds_of(lambda: [a @ a for _ in range(5)], device) / 5 for _ in range(7)]
    return 2 * side**3 / statistics.median(times[2:])
