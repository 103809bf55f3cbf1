"""Pictures of some of the concepts, cut out and put together anew (Seg-Mix; MuDI, Jang et al., NeurIPS 2024).

A reference picture shows its subjects together, in one place each. Mixed pictures show any of them, larger or smaller
and elsewhere, so that a token stands for its subject and not for where it stood or what stood beside it. The background
is the reference's own, with what the subjects leave open filled in from around, where edges of cut-outs, never exact,
lie on what they were cut from; or another, that the caption names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.image_io import to_tensor
from ..masks.crops import cores, grown, widened

_SMALLEST, _LARGEST = 0.75, 1.6  # times a subject's size
_FILLS = 0.95  # of the picture, at most, by a subject's longer side
_CLOSE = 1.25  # times a subject's share of the width that it may take
_OTHER = 0.2  # difference of colour in [-1, 1] from which on a pixel is not the background's
_STEPS_ASIDE = 0.08  # of the picture, by which a subject stands higher or lower than it did


@dataclass(frozen=True)
class Background:
    """What a mixture stands on.

    Attributes:
        image: without any subject, of the reference's size.
        template: what a caption says of it, with ``{all}`` or ``{each}`` where the subjects are named.
    """

    image: Image.Image
    template: str


class Cuttings:
    """The subjects of a picture, and the picture without them.

    Args:
        image: the reference picture, square.
        masks: where the subjects are, float ``[S, r, r]``.

    Attributes:
        background: the picture without its subjects.
    """

    def __init__(self, image: Image.Image, masks: Tensor) -> None:
        self.image, self.side = image, masks.shape[-1]
        size = (image.height, image.width)
        around = widened(cores(masks)).any(0)[None]  # colours at the edges would run into the filling
        known = 1 - F.interpolate(around[None].float(), size)[0]
        pixels = to_tensor(image)
        behind = filled(pixels, known)
        array = ((behind.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        self.background = Image.fromarray(array)
        # A mask is coarse: at its rim belongs to the subject what is not as the background would be.
        other = (pixels - behind).abs().amax(0) > _OTHER
        core, wide = (_smooth(each, size) for each in (cores(masks), grown(masks)))
        self.cuts = [Image.fromarray(255 * cut.byte().numpy()) for cut in core | (wide & other)]

    def mixed(
        self, named: Sequence[int], rng: random.Random, background: Image.Image | None = None
    ) -> tuple[Image.Image, Tensor]:
        """Put some subjects on a background, side by side in random order, each at a random size.

        Args:
            named: which of them to show.
            rng: decides order, sizes and places.
            background: of the picture's size; default its own.

        Returns:
            The picture, and where each subject is now, float ``[S, r, r]``; 0 for those that are not shown.
        """
        canvas = (self.background if background is None else background).copy()
        resolution, side = self.image.width, self.side
        places = torch.zeros(len(self.cuts), side, side)
        shown = [index for index in rng.sample(list(named), len(named)) if self.cuts[index].getbbox()]
        for slot, index in enumerate(shown):
            left, top, right, bottom = box = self.cuts[index].getbbox() or (0, 0, 1, 1)
            room = _FILLS * resolution
            most = min(_LARGEST, _CLOSE * room / len(shown) / (right - left), room / (bottom - top))
            scale = rng.uniform(min(_SMALLEST, most), most)
            size = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
            aside = _STEPS_ASIDE * resolution
            middle = (slot + 0.5) * resolution / len(shown) + rng.uniform(-aside, aside)
            x = min(max(round(middle - size[0] / 2), 0), resolution - size[0])
            y = min(max(round(bottom + rng.uniform(-aside, aside)) - size[1], 0), resolution - size[1])
            cut = self.cuts[index].crop(box).resize(size, Image.Resampling.BILINEAR)
            canvas.paste(self.image.crop(box).resize(size, Image.Resampling.BICUBIC), (x, y), cut)
            own = Image.new("L", self.image.size)
            own.paste(cut, (x, y))
            cells = torch.from_numpy(np.asarray(own.resize((side, side), Image.Resampling.BOX)) > 127)
            places[:, cells] = 0  # whoever stands in front hides the others
            places[index, cells] = 1
        return canvas, places


def _smooth(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``[S, r, r]`` at the size of a picture with rounded corners, bool ``[S, h, w]``."""
    return F.interpolate(masks[None].float(), size, mode="bicubic", align_corners=False)[0] > 0.5


def filled(values: Tensor, known: Tensor, level: int = 0) -> Tensor:
    """Fill what is not known from around, smoothly (pull-push; Gortler et al., SIGGRAPH 1996, section 3.4).

    Only every second level is coarser from top to bottom as well, so what is beside counts more than what is above and
    below: most pictures have a ground and a horizon.

    Args:
        values: ``[C, h, w]``; what they are where nothing is known does not matter.
        known: ``[1, h, w]`` in {0, 1}; where nothing at all is known, the result is 0.
        level: of the pyramid.

    Returns:
        ``[C, h, w]``; what was known stays.
    """
    height, width = known.shape[-2:]
    if bool(known.all()) or height == width == 1:
        return values * known
    window = (2 if level % 2 or width == 1 else 1, 2 if width > 1 else 1)
    share = F.avg_pool2d(known, window, ceil_mode=True)
    mean = F.avg_pool2d(values * known, window, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = filled(mean, (share > 0).float(), level + 1)
    around = F.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]
    return known * values + (1 - known) * around
