"""Where each concept is in the reference picture, read off the base model's attention to its class word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .images import to_tensor

_FLOOR = 0.4  # of a map's range: less attention than this is background
_LONE = 0.4  # of a cell's 3x3 neighbourhood: in less company than this it is noise
_MARGIN = 1.8  # side of a window, in sides of its region: enlarged more, patterns grow out of what the model knows


def concept_regions(class_maps: Tensor) -> Tensor:
    """Return one region per concept: the cells that look at its class word most, and their neighbours.

    Args:
        class_maps: attention to each concept's class word on the reference picture, ``[S, h, w]``.

    Returns:
        bool ``[S, h, w]``. A cell belongs to the concept whose map, scaled to [0, 1], is the largest there and at
        least 0.4; lone cells are left out, and a margin of one cell is added where it touches no other concept's.
    """
    low, high = class_maps.amin((1, 2), keepdim=True), class_maps.amax((1, 2), keepdim=True)
    scaled = (class_maps - low) / (high - low).clamp(min=1e-8)
    winner = scaled.argmax(0)
    core = torch.stack([(winner == i) & (m >= _FLOOR) for i, m in enumerate(scaled)])
    crowd = F.avg_pool2d(core.float()[:, None], 3, stride=1, padding=1)[:, 0]
    core &= crowd > _LONE
    grown = F.max_pool2d(core.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
    return core | (grown & (grown.sum(0) == 1))


def cut_out(image: Image.Image, regions: Tensor, concept: int) -> tuple[Image.Image, Image.Image]:
    """Cut a square window around one concept and enlarge it to the picture's size.

    Args:
        image: the reference picture, square.
        regions: of all concepts, bool ``[S, h, w]``; if the concept's is empty, the window is the whole picture.
        concept: index of the one to show.

    Returns:
        The window, and where in it the *other* concepts are, in white on black.
    """
    own = regions[concept].nonzero()
    elsewhere = (regions.any(0) & ~regions[concept]).cpu().numpy().astype("uint8") * 255
    drawn = Image.fromarray(elsewhere).resize(image.size, Image.Resampling.NEAREST).convert("RGB")
    if not len(own):
        return image, drawn
    resolution = image.width
    cell = resolution / regions.shape[-1]
    (top, left), (bottom, right) = own.amin(0) * cell, (own.amax(0) + 1) * cell
    side = min(int(_MARGIN * max(bottom - top, right - left)), resolution)
    x, y = (
        min(max(int((low + high - side) / 2), 0), resolution - side) for low, high in ((left, right), (top, bottom))
    )
    box = (x, y, x + side, y + side)
    window, others = (p.crop(box).resize(p.size, Image.Resampling.BICUBIC) for p in (image, drawn))
    return window, others


def mask_without(others: Image.Image, side: int) -> Tensor:
    """Return the loss mask ``[1, side, side]`` of a window: 0 where mostly another concept is."""
    covered = to_tensor(others.resize((side, side), Image.Resampling.BOX))[:1]  # in [-1, 1]; grey margins are 0
    return (covered < 0.25).float()
