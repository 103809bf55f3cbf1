"""The losses of steps, read when the device has them and not while it could go on.

Reading a number off a GPU waits until everything that was asked of it is done. Read right after its step, the loss lets
the GPU run dry in every step; read after the next step was begun, it is there already. Nothing is lost: every step's
losses are read, in order, before anything that depends on them is written.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepLosses:
    """What is known of a step once its losses are read.

    Attributes:
        step: steps done with it, from 1.
        values: losses by name.
        rate: the largest learning rate.
        seconds: since the step before was read, or since this one began.
    """

    step: int
    values: dict[str, float]
    rate: float
    seconds: float


@dataclass(frozen=True)
class _Waiting:
    step: int
    names: list[str]
    numbers: Any  # a tensor on the CPU, being written, or the losses themselves
    written: Any  # an event of CUDA's that says when, or None
    rate: float
    begin: float


class PendingLosses:
    """Holds the losses of the last steps.

    Args:
        late: steps that may be begun before the losses of one are read; 0 reads them at once.
    """

    def __init__(self, late: int):
        self.late = late
        self._waiting: deque[_Waiting] = deque()
        self._read = 0.0

    def put(self, step: int, losses: dict[str, Tensor], rate: float, begin: float) -> list[StepLosses]:
        """Take a step's losses, scalars on the device; return those that are to be read by now.

        Args:
            step: steps done with it.
            losses: by name.
            rate: the largest learning rate.
            begin: when the step began, of ``time.monotonic``.
        """
        numbers: Any = list(losses.values())
        written = None
        if self.late and numbers[0].is_cuda:
            together = torch.stack([each.float() for each in numbers])
            numbers = torch.empty(together.shape, pin_memory=True).copy_(together, non_blocking=True)
            written = torch.cuda.Event()
            written.record()
        self._waiting.append(_Waiting(step, list(losses), numbers, written, rate, begin))
        return [self._next() for _ in range(len(self._waiting) - self.late)]

    def all(self) -> list[StepLosses]:
        """Read whatever is not read yet."""
        return [self._next() for _ in range(len(self._waiting))]

    def _next(self) -> StepLosses:
        one = self._waiting.popleft()
        if one.written is not None:
            one.written.synchronize()
        values = {name: float(number) for name, number in zip(one.names, one.numbers, strict=True)}
        begin, self._read = max(one.begin, self._read), time.monotonic()
        return StepLosses(one.step, values, one.rate, self._read - begin)
