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
_SHADES = 16  # of each colour, by which pixels are told apart
_LEAST = 0.4  # of a mask that colours must find, or they say nothing
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
        core, wide, far = cores(masks), grown(masks), widened(widened(cores(masks)))
        pixels = to_tensor(image)
        inner, outer, reach = (_smooth(each, size) for each in (core, wide, far))
        nowhere = ~_smooth(widened(core), size).any(0)
        cuts = [_cut(pixels, *where, nowhere) for where in zip(inner, outer, strict=True)]
        self.cuts = [Image.fromarray(255 * cut.byte().numpy()) for cut in cuts]
        # An ear that sticks out of a mask must not stay, nor may colours at edges run into the filling.
        there = torch.stack([_cut(pixels, *where, nowhere) for where in zip(inner, reach, strict=True)]) | inner
        rim = max(image.width // 32, 1)
        known = 1 - F.max_pool2d(there.any(0)[None].float(), 2 * rim + 1, 1, rim)
        behind = filled(pixels, known)
        array = ((behind.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        self.background = Image.fromarray(array)

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


def _cut(pixels: Tensor, core: Tensor, wide: Tensor, nowhere: Tensor) -> Tensor:
    """Which pixels are a subject's: within reach of its mask, of colours that are commoner in it than where nothing is.

    A mask has cells of several pixels, and a cut-out with a rim of beach shows it in the snow. Where colours say
    nothing, a white dog in the snow, the mask is all there is.

    Args:
        pixels: of the picture, in [-1, 1], ``[3, h, w]``.
        core: the mask, bool ``[h, w]``.
        wide: the mask and what is around it, likewise.
        nowhere: where no subject is near, likewise.
    """
    if not core.any() or not nowhere.any():
        return core
    place = ((pixels + 1) / 2 * _SHADES).long().clamp(0, _SHADES - 1)
    bins = (place[0] * _SHADES + place[1]) * _SHADES + place[2]
    inside, outside = (_shares(bins[where]).flatten()[bins] for where in (core, nowhere))
    cut = wide & (inside > outside)
    closed = F.max_pool2d(cut[None].float(), 3, 1, 1)  # a pixel of another shade within it is its own
    cut = (-F.max_pool2d(-closed, 3, 1, 1)[0] > 0) & wide
    return cut if (cut & core).sum() > _LEAST * core.sum() else core


def _shares(bins: Tensor) -> Tensor:
    """How common each colour is, ``[c, c, c]``, a colour's neighbours counted with it."""
    counts = torch.bincount(bins, minlength=_SHADES**3).float().view(1, 1, _SHADES, _SHADES, _SHADES)
    return F.avg_pool3d(counts, 3, 1, 1)[0, 0] / len(bins)


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
