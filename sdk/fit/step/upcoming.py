"""The rows of the next step, made while the device still computes the last one."""

from __future__ import annotations

import torch

from ...data.batch import Batch
from ...data.rows import Rows
from ...methods.base import Method


class UpcomingRows:
    """Makes the rows of steps, in order.

    Nothing runs beside the fit: a GPU works on what was asked of it, and until it is done the CPU has time. A method
    that does something before a step, with the weights of then, has its rows made when their turn comes.

    Args:
        method: what it does before a step is done before its rows are drawn.
        rows: draws them.
        device: where they go.
        ahead: whether :meth:`prepare` does anything; default on CUDA, where steps are only asked for.
    """

    def __init__(self, method: Method, rows: Rows, device: torch.device, ahead: bool | None = None):
        self.method, self.rows, self.device = method, rows, device
        wanted = device.type == "cuda" if ahead is None else ahead
        self._ahead = wanted and type(method).before_step is Method.before_step
        self._made: tuple[int, Batch] | None = None

    def prepare(self, step: int) -> None:
        """Make the rows of a step that will be done, unless they have to wait for it."""
        if self._ahead and step < self.method.settings.steps:
            self._made = step, self._make(step)

    def take(self, step: int) -> Batch:
        """Return the rows of a step, counted from 0, on the device."""
        made, self._made = self._made, None
        return made[1] if made is not None and made[0] == step else self._make(step)

    def _make(self, step: int) -> Batch:
        self.method.before_step(step)
        return self.rows[step].to(self.device)
