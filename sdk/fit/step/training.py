"""One training step: nothing in it reads a number off the device, so a GPU never waits for Python."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.batch import Batch
from ...methods.base import Method


def train_step(
    method: Method, batch: Batch, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, step: int
) -> dict[str, Tensor]:
    """Update the weights by the rows of a step; return the losses by name, scalars on the device.

    Args:
        method: what is trained.
        batch: the rows, on its device.
        optimizer: of the method's parameter groups.
        scaler: of float16's gradients; not enabled elsewhere.
        step: counted from 0; learning rates depend on it.
    """
    set_rates(method, optimizer, step)
    optimizer.zero_grad(set_to_none=True)
    sums, learnable = backward(method, batch, scaler)
    if learnable:
        scaler.step(optimizer)
        scaler.update()
    return sums


def set_rates(method: Method, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give the optimiser a step's learning rates; what has none is frozen.

    Args:
        method: says what they are.
        optimizer: of its parameter groups; rates that lie on the device stay where they are.
        step: counted from 0.
    """
    for group, rate in zip(optimizer.param_groups, method.rates(step), strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        for parameter in group["params"]:
            parameter.requires_grad_(rate > 0)


def backward(method: Method, batch: Batch, scaler: torch.amp.GradScaler) -> tuple[dict[str, Tensor], bool]:
    """Compute the gradients of a step; return its losses by name, and whether there is anything to learn.

    Args:
        method: what is trained.
        batch: the rows, on its device.
        scaler: of the losses; float16's.
    """
    learnable = False
    sums: dict[str, Tensor] = {}
    with method.installed():
        for part in batch.parts(method.settings.rows_at_once):
            losses = method.losses(part)
            if losses["loss"].requires_grad:  # not where tokens alone train and there are priors alone
                scaler.scale(losses["loss"]).backward()
                learnable = True
            for name, value in losses.items():
                sums[name] = value.detach() + sums[name] if name in sums else value.detach()
    return sums, learnable
