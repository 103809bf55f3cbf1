"""How much memory there is, and how much of it a user wants to be taken."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..rules.arguments import number, shown

AUTO = "auto"
LIBRARIES = {"cuda": 600 << 20, "cpu": 700 << 20}  # the context and kernels of CUDA; Python and the libraries
_MOST = 1e6  # GB
_SHARE = 0.9  # of what is free: allocators waste some
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def checked_memory(memory: Any) -> float | str:
    """Return a budget as it was given: ``"auto"``, or a number of GB.

    Raises:
        InputError: something else.
    """
    if isinstance(memory, str):
        if memory != AUTO:
            raise InputError(f"memory must be 'auto' or a number of GB, got {shown(memory)}")
        return memory
    value = number(memory, "memory", 0.0, _MOST)
    if value == 0:
        raise InputError("memory must be 'auto' or a number of GB above 0, got 0")
    return value


def left_of(memory: float | str, device: torch.device, held: int) -> int:
    """Return how many bytes passes may take beside a model's weights.

    Args:
        memory: the budget, of everything: weights and libraries, too.
        device: where the model runs.
        held: bytes of its weights.
    """
    if isinstance(memory, str):
        return int(_SHARE * free_memory(device))
    return int(memory * 1e9) - held - LIBRARIES.get(device.type, 0)


def free_memory(device: torch.device) -> int:
    """Return how many bytes could be taken on a device now."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    import psutil

    return min(
        [psutil.virtual_memory().available, *(limit - psutil.Process().memory_info().rss for limit in _limits())]
    )


def _limits() -> list[int]:
    """What a container may take."""
    found = []
    for file in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or "max"
            found.append(int(Path(file).read_text()))
    return found


def gigabytes(count: float) -> str:
    """Return bytes as GB for people, rounded up, so that as much is enough."""
    return f"{math.ceil(count / 1e7) / 100:.2f}"
