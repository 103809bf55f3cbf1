"""What the trainings share: the device, learning-rate schedules, averaged weights and checkpoints."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import torch
from torch import nn


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cosine_schedule(step: int, total: int, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def trapezoid_schedule(step: int, total: int, *, warmup: int = 100, decay: float = 0.4) -> float:
    """Learning-rate factor: linear warm-up, constant, then a line down to 0 over the last ``decay`` of the steps.

    Before the decay begins, a longer total may be chosen without having lost anything.
    """
    return min(1.0, (step + 1) / warmup, max(0.0, (total - step) / (decay * total)))


class AveragedWeights:
    """Exponential moving average of a module's parameters, with a warm-up so that early noise fades."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged = [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_(averaged, [p.detach() for p in module.parameters()], 1 - decay)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a training checkpoint atomically (tensors and plain values only)."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict | None:
    """Read a checkpoint written by :func:`save_checkpoint`, or ``None`` if there is none."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
