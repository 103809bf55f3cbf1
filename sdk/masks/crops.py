"""Windows on single concepts of the reference picture."""

from __future__ import annotations

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.image_io import to_tensor

_LONE = 0.4  # a cell counts if at least this share of its neighbours is set; lonelier ones are noise
_MARGIN = 1.8  # side of a window, in sides of its region; tighter windows show patterns larger than the model knows


def cores(masks: Tensor) -> Tensor:
    """Return masks ``[S, r, r]`` without lone cells, bool."""
    reach = _reach(masks)
    return (masks > 0.5) & (F.avg_pool2d(masks.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > _LONE)


def grown(masks: Tensor) -> Tensor:
    """Return masks ``[S, r, r]`` without lone cells and widened by a sixteenth of the picture, bool.

    They are not widened to where that would touch another one.
    """
    core = cores(masks)
    wide = widened(core)
    return core | (wide & (wide.sum(0) == 1))


def widened(masks: Tensor) -> Tensor:
    """Return masks ``[S, r, r]`` widened by a sixteenth of the picture, bool."""
    reach = _reach(masks)
    return F.max_pool2d(masks.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0


def _reach(masks: Tensor) -> int:
    return max(masks.shape[-1] // 16, 1)


def cut_out(image: Image.Image, regions: Tensor, concept: int) -> tuple[Image.Image, Image.Image]:
    """Cut a square window around one concept and enlarge it to the picture's size.

    Args:
        image: the reference picture, square.
        regions: of all concepts, bool ``[S, h, w]``; if the concept's is empty, the window is the whole picture.
        concept: index of the one to show.

    Returns:
        The window, and where in it the *other* concepts are, in white on black.
    """
    drawn = drawn_mask(regions.any(0) & ~regions[concept], image.size)
    box = window_box(regions, concept, image.width)
    if box == (0, 0, *image.size):
        return image, drawn
    window, others = (p.crop(box).resize(p.size, Image.Resampling.BICUBIC) for p in (image, drawn))
    return window, others


def window_box(regions: Tensor, concept: int, resolution: int) -> tuple[int, int, int, int]:
    """Return the window around a concept, ``(left, top, right, bottom)`` in pixels of a picture of that side."""
    own = regions[concept].nonzero()
    if not len(own):
        return (0, 0, resolution, resolution)
    cell = resolution / regions.shape[-1]
    (top, left), (bottom, right) = own.amin(0) * cell, (own.amax(0) + 1) * cell
    side = min(int(_MARGIN * max(bottom - top, right - left)), resolution)
    x, y = (
        min(max(int((low + high - side) / 2), 0), resolution - side) for low, high in ((left, right), (top, bottom))
    )
    return (x, y, x + side, y + side)


def drawn_mask(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return a mask ``[h, w]`` as a picture, white where it is above one half."""
    white = (mask.cpu().numpy() > 0.5).astype("uint8") * 255
    return Image.fromarray(white).resize(size, Image.Resampling.NEAREST).convert("RGB")


def mask_where(drawn: Image.Image, side: int) -> Tensor | None:
    """Return where a drawn mask is mostly white, float ``[1, side, side]``; ``None`` where that is nowhere."""
    white = to_tensor(drawn.resize((side, side), Image.Resampling.BOX))[:1] > 0.25  # grey margins are 0
    return white.float() if white.any() else None


def mask_without(others: Image.Image, side: int) -> Tensor:
    """Return the loss mask ``[1, side, side]`` of a window: 0 where mostly another concept is."""
    covered = to_tensor(others.resize((side, side), Image.Resampling.BOX))[:1]  # in [-1, 1]; grey margins are 0
    return (covered < 0.25).float()
