"""How many objects of a class does the judge see? Counted on its maps of where they are.

Each connected region is one object, and two if it is wider than an object can be: neighbours that touch. Checked by
``tests/miniworld/test_evaluation.py`` on renders of one and of two objects of a class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SEEN = 0.3  # of a cell's probability
_LEAST = 8  # cells; smaller regions are a stray mark
_WIDEST = 13 / 16  # of the picture; a single object takes at most 0.74


def count_objects(place: Tensor) -> Tensor:
    """Return how many objects each map shows.

    Args:
        place: probabilities ``[B, h, w]`` of one class, :attr:`sdk.miniworld.judge.Verdict.place`.

    Returns:
        int64 ``[B]``.
    """
    counts = []
    for regions in _regions(place > _SEEN):
        found = 0
        for number in regions.unique().tolist():
            inside = regions == number
            if number and inside.sum() >= _LEAST:
                columns = inside.any(0).nonzero()
                wide = columns.max() - columns.min() + 1 >= _WIDEST * place.shape[-1]
                found += 2 if wide else 1
        counts.append(found)
    return torch.tensor(counts)


def _regions(inside: Tensor) -> Tensor:
    """Number the regions that hang together side by side, ``[B, h, w]``; 0 is outside."""
    height, width = inside.shape[-2:]
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width)
    labels = numbers * inside[:, None]
    while True:  # every cell takes the largest number it touches, until nothing changes
        across, along = F.max_pool2d(labels, (1, 3), 1, (0, 1)), F.max_pool2d(labels, (3, 1), 1, (1, 0))
        spread = torch.maximum(across, along) * inside[:, None]
        if torch.equal(spread, labels):
            return labels[:, 0].long()
        labels = spread
