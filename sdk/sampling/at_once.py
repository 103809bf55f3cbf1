"""How many pictures are drawn together: as many as memory has room for."""

from __future__ import annotations

from ..errors import InputError
from ..memory.budget import gigabytes
from ..memory.passes import drawing_peak, rough_step
from ..model.base_model import BaseModel

_MOST = 16  # pictures of so many pixels; fewer of larger ones
_USUAL = 512 * 512


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
    cells, left = (size[0] // factor, size[1] // factor), base.memory_left()
    if rough_step(unet.config, most * rows, cells, unet.dtype) <= left:
        return most
    one = drawing_peak(unet.config, rows, cells, unet.dtype)  # so many take so many times as much
    if one > left and not isinstance(base.memory, str):
        raise InputError(
            f"a picture of {size[1]} x {size[0]} needs {gigabytes(base.memory * 1e9 + one - left)} GB, more than "
            f"memory={base.memory:g}; draw a smaller one, or give more"
        )
    return max(min(most, left // one), 1)
