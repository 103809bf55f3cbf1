"""Pools of rendered scenes, drawn by several processes and, on a GPU, ahead of their use."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.augmentation import ENLARGED_PREFIXES, SHRUNK_PREFIXES, enlarge_on_crop, shrink_on_grey
from ..renderer import RESOLUTION, render
from ..scene import MAX_OBJECTS, Scene, Vocabulary, sample_scene

_CHUNK = 500  # scenes per task of a worker


@dataclass
class Pool:
    """Rendered scenes.

    Attributes:
        pictures: uint8 ``[count, 3, 64, 64]``.
        masks: bool ``[count, 3, 64, 64]``, the objects' visible masks; empty where the scale augmentation was used.
        scenes: what the pictures show.
        prefixes: the words of the scale augmentation, empty for most.
    """

    pictures: Tensor
    masks: Tensor
    scenes: list[Scene]
    prefixes: list[str]


_Chunk = tuple[np.ndarray, np.ndarray, list[Scene], list[str]]


def _render_chunk(count: int, vocabulary: Vocabulary, seed: str, split: str, scaled: bool) -> _Chunk:
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
                image, _ = enlarge_on_crop(image, rng.randint(int(1.2 * RESOLUTION), int(1.4 * RESOLUTION)), rng)
                prefix = rng.choice(ENLARGED_PREFIXES)
        if not prefix:
            masks[index, : len(visible)] = visible
        pictures[index] = np.asarray(image)
        scenes.append(scene)
        prefixes.append(prefix)
    return pictures, masks, scenes, prefixes


def _chunks(count: int, vocabulary: Vocabulary, seed: int, split: str, scaled: bool) -> list[tuple]:
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    return [(size, vocabulary, f"pool {seed} {index}", split, scaled) for index, size in enumerate(sizes)]


def _joined(chunks: Iterable[_Chunk]) -> Pool:
    pictures, masks, scenes, prefixes = zip(*chunks, strict=True)
    return Pool(
        torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.concatenate(masks)),
        [scene for part in scenes for scene in part],
        [prefix for part in prefixes for prefix in part],
    )


@contextmanager
def workers() -> Iterator[Executor]:
    """Yield the processes that render: all cores but one, where there are many."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(max(2, (os.cpu_count() or 2) - 1), context) as executor:
        yield executor


def submit_pool(
    executor: Executor, count: int, vocabulary: Vocabulary, seed: int, *, split: str = "train", scaled: bool = True
) -> list[Future[_Chunk]]:
    """Start rendering ``count`` scenes, a few of them through the scale augmentation if ``scaled``."""
    return [executor.submit(_render_chunk, *chunk) for chunk in _chunks(count, vocabulary, seed, split, scaled)]


def collect_pool(tasks: list[Future[_Chunk]]) -> Pool:
    """Wait for the scenes of :func:`submit_pool`."""
    return _joined(task.result() for task in tasks)


def render_pool(count: int, vocabulary: Vocabulary, seed: int, *, split: str = "train", scaled: bool = True) -> Pool:
    """Render ``count`` scenes here and now; the same arguments give the same pool."""
    return _joined(_render_chunk(*chunk) for chunk in _chunks(count, vocabulary, seed, split, scaled))


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 ``[0, 255]`` to float32 ``[-1, 1]``."""
    return pictures.float().div_(127.5).sub_(1.0)
