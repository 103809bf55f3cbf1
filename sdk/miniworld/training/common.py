"""What the three trainings share: pools of rendered scenes, schedules, averaged weights and checkpoints."""

from __future__ import annotations

import copy
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...augmentation import ENLARGED_PREFIXES, SHRUNK_PREFIXES, enlarge_on_crop, shrink_on_grey
from ..render import RESOLUTION, render
from ..scene import Scene, Vocabulary, sample_scene

MAX_OBJECTS = 3


@dataclass
class Pool:
    """Rendered scenes.

    Attributes:
        pictures: uint8 ``[count, 3, 64, 64]``.
        masks: bool ``[count, 3, 64, 64]``, the objects' visible masks; empty where the scale augmentation was used.
        scenes: what the pictures show.
        prefixes: the words of the scale augmentation, empty for most.
    """

    pictures: torch.Tensor
    masks: torch.Tensor
    scenes: list[Scene]
    prefixes: list[str]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def render_pool(count: int, vocabulary: Vocabulary, seed: int, *, split: str = "train", scaled: bool = True) -> Pool:
    """Render ``count`` scenes, a few of them through the scale augmentation if ``scaled``."""
    rng = random.Random(seed)
    pictures = np.empty((count, RESOLUTION, RESOLUTION, 3), np.uint8)
    masks = np.zeros((count, MAX_OBJECTS, RESOLUTION, RESOLUTION), bool)
    scenes, prefixes = [], []
    for index in range(count):
        scene = sample_scene(rng, vocabulary, split=split)
        image, visible = render(scene)
        prefix = ""
        if scaled and rng.random() < vocabulary.scaled:
            if rng.random() < 0.5:
                image, _ = shrink_on_grey(image, rng.randint(RESOLUTION // 3, int(0.6 * RESOLUTION)), rng)
                prefix = rng.choice(SHRUNK_PREFIXES)
            else:
                image = enlarge_on_crop(image, rng.randint(int(1.2 * RESOLUTION), int(1.4 * RESOLUTION)), rng)
                prefix = rng.choice(ENLARGED_PREFIXES)
        if not prefix:
            masks[index, : len(visible)] = visible
        pictures[index] = np.asarray(image)
        scenes.append(scene)
        prefixes.append(prefix)
    return Pool(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks), scenes, prefixes)


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 ``[0, 255]`` to float32 ``[-1, 1]``."""
    return pictures.float().div_(127.5).sub_(1.0)


def cosine_schedule(step: int, total: int, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


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
