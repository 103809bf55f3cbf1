"""Masks that a user gives."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..images.image_io import square, to_tensor

log = logging.getLogger("sdk")


def read_masks(
    masks: Sequence[Image.Image], pictures: Sequence[Image.Image], concepts: int, resolution: int
) -> list[Tensor]:
    """Check a user's masks and cut them square as the pictures are.

    Args:
        masks: white where a concept is, one per concept, picture by picture; of a picture's size or its centre square.
        pictures: the reference pictures as the user gave them.
        concepts: how many there are.
        resolution: of the squares, pixels.

    Returns:
        Per picture float ``[S, resolution, resolution]`` of 0 and 1.

    Raises:
        InputError: a wrong number or size, or a mask without white inside the square.
    """
    if not isinstance(masks, (list, tuple)) or not all(isinstance(mask, Image.Image) for mask in masks):
        raise InputError("masks are a list of pictures, white where a concept is")
    if len(masks) != concepts * len(pictures):
        raise InputError(f"give one mask for each of the {concepts} concepts of each picture, got {len(masks)}")
    found = []
    for index, mask in enumerate(masks):
        picture = pictures[index // concepts]
        if mask.size != picture.size and mask.width != mask.height:
            raise InputError(f"a mask must have its picture's size {picture.size}, got {mask.size}; resize it")
        white = to_tensor(square(mask.convert("L").convert("RGB"), resolution))[0] > 0
        if not white.any():
            raise InputError(f"mask {index + 1} shows nothing in the picture's centre square; paint its concept white")
        if white.all():
            log.warning("mask %d covers the whole picture; give one that is white where its concept is", index + 1)
        found.append(white.float())
    together = [torch.stack(found[i : i + concepts]) for i in range(0, len(found), concepts)]
    if any(torch.equal(a, b) for each in together for a, b in combinations(each, 2)):
        log.warning("two concepts have the same mask; give each a mask of its own")
    return together
