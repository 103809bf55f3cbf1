"""Pictures and the numbers the models take, without torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import NotFiniteError
from ..finite import is_finite


def to_pixels(image: Image.Image) -> np.ndarray:
    """RGB to float32 ``[3, H, W]`` in [-1, 1]."""
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1


def from_pixels(values: np.ndarray) -> Image.Image:
    """``[3, H, W]`` in [-1, 1] to RGB.

    Raises:
        NotFiniteError: a decoder's answer that is no picture.
    """
    if not is_finite(values):
        raise NotFiniteError("the decoder's picture holds no numbers: the model overflows; export it in float32")
    scaled: np.ndarray = np.clip(values.astype(np.float32) / 2 + 0.5, 0, 1)
    return Image.fromarray((scaled.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def mask_cells(mask: Image.Image, side: int) -> np.ndarray:
    """A black and white mask to ``[1, 1, side, side]``: 1 where any pixel of a cell is white."""
    white = np.asarray(mask) > 127
    step = white.shape[0] // side
    cells = white.reshape(side, step, side, step)
    return cells.max((1, 3), keepdims=True).reshape(1, 1, side, side).astype(np.float32)
