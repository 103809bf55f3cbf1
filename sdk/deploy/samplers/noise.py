"""The normal numbers that torch draws on a CPU, from numpy: the same seed gives the same noise on both sides.

torch's CPU generator is the Mersenne Twister (MT19937); 24 bits of each word make a uniform number, and blocks of 16 of
them become normal numbers by the Box-Muller transform, the first eight with the cosine, the last eight with the sine.
"""

from __future__ import annotations

import math

import numpy as np

_BLOCK = 16


class Noise:
    """A stream of normal numbers.

    Args:
        seed: as for ``torch.Generator().manual_seed``.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._words = np.random.MT19937()
        self._words._legacy_seeding(seed & 0xFFFFFFFF)  # the seeding of 2002, which torch uses too

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw float32 of this shape, as ``torch.randn(shape, generator=...)`` would; 16 numbers at least.

        Raises:
            ValueError: fewer than 16 numbers, which torch draws in another way.
        """
        count = math.prod(shape)
        if count < _BLOCK:
            raise ValueError(f"at least {_BLOCK} numbers are drawn at a time, got {count}")
        uniform = self._uniform(count)
        whole = count // _BLOCK * _BLOCK
        values = np.empty(count, np.float32)
        values[:whole] = _box_muller(uniform[:whole])
        if whole < count:  # the last sixteen are drawn again, as torch does
            values[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return values.reshape(shape)

    def _uniform(self, count: int) -> np.ndarray:
        words = self._words.random_raw(count).astype(np.uint32)
        return (words & 0xFFFFFF).astype(np.float32) / np.float32(1 << 24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Normal numbers out of uniform ones in [0, 1), whole blocks of 16."""
    pairs = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * np.log1p(-pairs[:, 0]))
    angle = np.float32(2 * math.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
