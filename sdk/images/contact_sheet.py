"""Contact sheets, heat maps and masks over pictures, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..concepts import Concept

_GAP = 6
_INK = (30, 30, 35)
_COLOURS = ((230, 60, 60), (60, 120, 230), (50, 180, 90), (240, 180, 40), (160, 80, 200), (40, 190, 200))
_TILE = 128  # pixels; small pictures are enlarged to this, without smoothing


def font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow carries."""
    return ImageFont.load_default(size)


def tile(image: Image.Image, side: int = _TILE) -> Image.Image:
    """Resize a picture for a sheet: small ones by whole pixels, large ones smoothly."""
    method = Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS
    return image.resize((side, side), method)


def labelled_grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], side: int = _TILE) -> Image.Image:
    """Arrange rows of pictures, each under its label."""
    line = 20
    columns = max(len(row) for row in rows)
    width = columns * (side + _GAP) + _GAP
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(width, *(int(probe.textlength(label, font=font())) + 2 * _GAP for label in labels))
    sheet = Image.new("RGB", (width, len(rows) * (side + line + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = _GAP + index * (side + line + _GAP)
        draw.text((_GAP, top), label, fill=_INK, font=font())
        for column, image in enumerate(row):
            sheet.paste(tile(image, side), (_GAP + column * (side + _GAP), top + line))
    return sheet


def heat_overlay(image: Image.Image, attention: np.ndarray, side: int = _TILE) -> Image.Image:
    """Lay a map ``[h, w]`` over a picture: from blue (its lowest value) over green to red (its highest)."""
    span = float(attention.max() - attention.min())
    level = (attention - attention.min()) / (span if span > 0 else 1.0)
    grey = Image.fromarray((level * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    x = np.asarray(grey, dtype=np.float32)[..., None] / 255
    stops = np.array([[40, 60, 160], [60, 170, 120], [250, 200, 60], [220, 40, 40]], np.float32)
    place = x[..., 0] * (len(stops) - 1)
    low = np.clip(place.astype(int), 0, len(stops) - 2)
    colours = stops[low] + (stops[low + 1] - stops[low]) * (place - low)[..., None]
    under = np.asarray(tile(image, side), dtype=np.float32)
    return Image.fromarray((0.4 * under + 0.6 * colours).clip(0, 255).astype(np.uint8))


def attention_sheet(image: Image.Image, concepts: Sequence[Concept], before: Tensor, after: Tensor) -> Image.Image:
    """Draw the maps of every modifier and class word on the reference picture, before and after the fit.

    Args:
        image: the reference picture.
        concepts: names of the maps.
        before: ``[2S, h, w]``, modifier and class of each concept.
        after: likewise.
    """
    names = [name for c in concepts for name in (c.token, c.noun)]
    rows = []
    for maps in (before, after):
        rows.append([tile(image), *(heat_overlay(image, m.float().cpu().numpy()) for m in maps)])
    label = "reference | " + " | ".join(names)
    return labelled_grid(rows, [f"before the fit: {label}", f"after the fit: {label}"])


def mask_sheet(image: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image]) -> Image.Image:
    """Draw the picture, then the picture with each concept's mask laid over it; masks are white on black."""
    shown = tile(image)
    row = [shown]
    for index, mask in enumerate(masks):
        sized = mask.convert("L").resize(shown.size, Image.Resampling.NEAREST)
        white = np.asarray(sized, np.float32)[..., None] / 255
        under = np.asarray(shown, np.float32)
        colour = np.array(_COLOURS[index % len(_COLOURS)], np.float32)
        row.append(Image.fromarray((under * (1 - 0.6 * white) + 0.6 * white * colour).astype(np.uint8)))
    return labelled_grid([row], ["reference | " + " | ".join(c.phrase for c in concepts)])
