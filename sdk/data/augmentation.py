"""Scale augmentation of the reference picture (Custom Diffusion; DisenDiff's section "implementation details").

A picture is shown small on a grey canvas, enlarged, or as it is, and the caption says so. The same two
operations teach the bundled base model what these words mean.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

SHRUNK_PREFIXES = ("a far away", "very small")
ENLARGED_PREFIXES = ("zoomed in", "close up")
GREY = (128, 128, 128)  # 0 in [-1, 1]


def shrink_on_grey(image: Image.Image, side: int, rng: random.Random) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Paste the square picture, resized to ``side`` pixels, at a random place of a grey canvas.

    Returns:
        The picture at its original size, and the pasted box ``(left, top, right, bottom)`` in pixels.
    """
    resolution = image.width
    left, top = (rng.randint(0, resolution - side) for _ in range(2))
    canvas = Image.new("RGB", image.size, GREY)
    canvas.paste(image.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return canvas, (left, top, left + side, top + side)


def enlarge_on_crop(image: Image.Image, side: int, rng: random.Random) -> tuple[Image.Image, tuple[int, int]]:
    """Resize the square picture to ``side`` pixels, larger than it is, and cut a random window of its size.

    Returns:
        The window, and where its top and its left edge are in the enlarged picture.
    """
    resolution = image.width
    left, top = (rng.randint(0, side - resolution) for _ in range(2))
    enlarged = image.resize((side, side), Image.Resampling.BICUBIC)
    return enlarged.crop((left, top, left + resolution, top + resolution)), (top, left)


@dataclass(frozen=True)
class AugmentedPicture:
    """A variant of the reference picture.

    Attributes:
        image: square, at the model's resolution.
        prefix: the words the caption starts with, often none.
        mask: float ``[1, h, w]`` at the latents' resolution, 1 where the loss counts.
        concept_masks: where each concept is, float ``[S, r, r]``, if asked for.
        own: where the concepts are that it names, float ``[1, h, w]`` at the latents' resolution, if asked for.
        crop: where its top and its left edge were cut, pixels of the picture before.
        side: of the picture that it was made of, in the pixels that it had when it was read.
        template: what its caption is made of, with ``{all}`` or ``{each}`` where the concepts are named; empty: the
            usual one.
    """

    image: Image.Image
    prefix: str
    mask: Tensor
    concept_masks: Tensor | None = None
    crop: tuple[int, int] = (0, 0)
    side: int = 0
    template: str = ""
    own: Tensor | None = None


def augment(image: Image.Image, latent_side: int, rng: random.Random, *, flip: float, scale: bool) -> AugmentedPicture:
    """Draw one variant of a square picture.

    In 27 % of draws the picture is pasted small on grey, in 33 % it is enlarged and cut, else it stays (Custom
    Diffusion). The draw follows the released code: with probability 2/3 a size of 1/3 to 1 of the picture's,
    else 1.2 to 1.4; sizes from 0.6 to 1 leave it unchanged.
    """
    resolution = image.width
    ones = torch.ones(1, latent_side, latent_side, dtype=torch.float32)
    if rng.random() < flip:
        image = ImageOps.mirror(image)
    if not scale:
        return AugmentedPicture(image, "", ones)
    if rng.random() < 2 / 3:
        side = rng.randint(resolution // 3, resolution)
    else:
        side = rng.randint(int(1.2 * resolution), int(1.4 * resolution))
    side += side % 2
    if side < 0.6 * resolution:
        shrunk, box = shrink_on_grey(image, side, rng)
        return AugmentedPicture(shrunk, rng.choice(SHRUNK_PREFIXES), _box_mask(box, latent_side, resolution))
    if side > resolution:
        window, crop = enlarge_on_crop(image, side, rng)
        return AugmentedPicture(window, rng.choice(ENLARGED_PREFIXES), ones, crop=crop)
    return AugmentedPicture(image, "", ones)


def _box_mask(box: tuple[int, int, int, int], latent_side: int, resolution: int) -> Tensor:
    """Mask of a pasted box, one latent pixel smaller on every side (where that leaves anything)."""
    factor = resolution // latent_side
    left, top, right, bottom = (edge // factor for edge in box)
    mask = torch.zeros(1, latent_side, latent_side, dtype=torch.float32)
    mask[:, top + 1 : max(bottom - 1, top + 2), left + 1 : max(right - 1, left + 2)] = 1.0
    return mask
