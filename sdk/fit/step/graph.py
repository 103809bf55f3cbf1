"""Steps recorded once and played again: what a GPU is asked to do in a step goes to it in one piece.

A step asks a GPU for some thousand small things, and Python takes longer to ask than the GPU to do them. Where every
step asks for the very same, on tensors at the same places, it can be recorded (CUDA graphs) and asked for as a whole:
forward pass, losses, backward pass and the update of the weights. What differs between steps is copied to where the
recorded step looks for it: rows, tokens of captions, where concepts stand in them, learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...data.batch import Batch
from ...methods.base import Method
from .training import backward, set_rates, train_step

Body = Callable[[], dict[str, Tensor]]
Record = Callable[[Body], tuple[dict[str, Tensor], Callable[[], Any]]]
"""From what a step does, what it returns when it is recorded, and a function that does it again in the same places."""

_BEFORE = 3  # steps that are done as Python asks for them, so that whatever is set up once is there


def cuda_graph(body: Body) -> tuple[dict[str, Tensor], Callable[[], Any]]:
    """Record by CUDA; nothing is computed before the first replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = body()
    return losses, graph.replay


class RecordedSteps:
    """Does steps as :func:`train_step` does, the first ones and those that show priors alone as that does.

    Those have no gradient in the tokens, which are then not updated at all; a recorded step would move them on.

    Args:
        method: whose losses take every batch the same way (:attr:`sdk.methods.base.Method.fixed_shapes`).
        optimizer: one that keeps its counts and rates on the device.
        scaler: not enabled.
        record: records.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        record: Record = cuda_graph,
    ):
        self.method, self.optimizer, self.scaler, self.record = method, optimizer, scaler, record
        self._held: Batch | None = None
        self._losses: dict[str, Tensor] = {}
        self._play: Callable[[], Any] | None = None
        self._done = 0

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Update the weights by the rows of a step; return the losses by name, which the next step overwrites."""
        if not any(batch.named):
            return train_step(self.method, batch, self.optimizer, self.scaler, step)
        given = batch.with_inputs(self.method.fixed_inputs(batch))
        if self._held is None:
            self._held = replace(given, concept_masks=None).copied()  # methods of fixed shapes use none
        self._held.take(given)
        set_rates(self.method, self.optimizer, step)
        if self._play is None and self._done < _BEFORE:
            self._done += 1
            with _beside(batch.latents.device):
                return self._body()
        if self._play is None:
            self._losses, self._play = self.record(self._body)
        self._play()
        return self._losses

    def _body(self) -> dict[str, Tensor]:
        assert self._held is not None
        self.optimizer.zero_grad(set_to_none=True)
        sums, _ = backward(self.method, self._held, self.scaler)
        self.optimizer.step()
        return sums


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Compute in a stream of its own, as a recording is made in one, and let the usual one wait for it."""
    if device.type != "cuda":
        yield
        return
    usual, other = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    other.wait_stream(usual)
    with torch.cuda.stream(other):
        yield
    usual.wait_stream(other)
