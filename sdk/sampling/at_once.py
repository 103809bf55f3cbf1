"""How many pictures are drawn together, and whether one is decoded in tiles: as memory has room for."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..memory.passes import decoding_peak, drawing_peak, rough_step
from ..model.base_model import BaseModel

_MOST = 16  # pictures of so many pixels; fewer of larger ones
_USUAL = 512 * 512
_SMALLEST_TILE = 128  # pixels; smaller ones show their seams


def pictures_at_once(base: BaseModel, size: tuple[int, int], *, guided: bool) -> int:
    """Return how many pictures are drawn together.

    Args:
        base: the base model, whose budget it is.
        size: of the pictures in pixels, height and width.
        guided: whether each goes through the UNet twice a step.

    Raises:
        InputError: a budget in GB that has no room for one.
    """
    most = max(min(_MOST, _MOST * _USUAL // (size[0] * size[1])), 1)
    unet, factor, rows = base.pipe.unet, base.pipe.vae_scale_factor, 1 + guided
    cells, left = _cells(size, factor), base.memory_left()
    if rough_step(unet.config, most * rows, cells, unet.dtype) <= left:
        return most
    one, two = (drawing_peak(unet.config, count * rows, cells, unet.dtype) for count in (1, 2))
    if one > left and not isinstance(base.memory, str):
        raise InputError(
            f"a picture of {size[1]} x {size[0]} needs {base.memory + (one - left) / 1e9:.2f} GB, more than "
            f"memory={base.memory:g}; draw a smaller one, or give more"
        )
    return max(min(most, 1 + (left - one) // max(two - one, 1)), 1)


def tile_side(base: BaseModel, size: tuple[int, int]) -> int | None:
    """Return the side in pixels of the tiles in which a picture is decoded; ``None``: memory has room for it whole.

    Args:
        base: the base model, whose budget it is.
        size: of the picture in pixels, height and width.
    """
    vae, factor, left = base.pipe.vae, base.pipe.vae_scale_factor, base.memory_left()
    dtype = torch.float32 if base.upcast_vae else vae.dtype
    if rough_step(vae.config, 1, size, dtype) <= left or decoding_peak(vae.config, _cells(size, factor), dtype) <= left:
        return None
    side = max(size)
    while side // 2 >= _SMALLEST_TILE and decoding_peak(vae.config, _cells((side, side), factor), dtype) > left:
        side //= 2
    return side


def _cells(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return size[0] // factor, size[1] // factor
