"""The photo that is learned from: its crop, and masks that are painted over it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

_SHOWN = 900  # pixels of the longer side of what is shown of a photo
_LARGEST = 2048  # pixels of a side of the crop that is kept: more than any model reads
EDITED = 512  # pixels of a side of what masks are painted on
_OPACITY = 150  # of 255, of a mask over the photo
COLOURS = ("#e5484d", "#3e63dd", "#30a46c", "#f5a524", "#8e4ec6", "#12a594", "#e54666", "#978365")

Box = tuple[int, int, int, int]


def crop_box(size: tuple[int, int], across: float, down: float, share: float) -> Box:
    """Return a square of a picture, in pixels: left, top, right, bottom.

    Args:
        size: of the picture.
        across: where its middle is, from 0 (as far left as it goes) to 100.
        down: likewise, from the top.
        share: its side in percent of the picture's shorter side.
    """
    side = max(1, round(min(size) * share / 100))
    left, top = round((size[0] - side) * across / 100), round((size[1] - side) * down / 100)
    return left, top, left + side, top + side


def centred_at(size: tuple[int, int], place: tuple[float, float], share: float) -> tuple[float, float]:
    """Return ``across`` and ``down`` of the square whose middle is closest to a place, in pixels of the picture."""
    side = min(size) * share / 100
    found = []
    for length, middle in zip(size, place, strict=True):
        room = length - side
        found.append(50.0 if room < 1 else min(max((middle - side / 2) / room * 100, 0.0), 100.0))
    return found[0], found[1]


def scale(size: tuple[int, int]) -> float:
    """Return how much larger or smaller a photo of a size is shown."""
    factor = _SHOWN / max(size)
    return factor if factor < 1 else float(max(1, int(factor / 2)))


def outlined(photo: Image.Image, box: Box) -> Image.Image:
    """Return the photo with what is outside of the crop darkened."""
    factor = scale(photo.size)
    size = (max(1, round(photo.width * factor)), max(1, round(photo.height * factor)))
    resampling = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    small = photo.convert("RGB").resize(size, resampling)
    left, top, right, bottom = (round(edge * factor) for edge in box)
    shown = Image.blend(small, Image.new("RGB", size), 0.6)
    shown.paste(small.crop((left, top, right, bottom)), (left, top))
    if (left, top, right, bottom) != (0, 0, *size):
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        ImageDraw.Draw(shown).rectangle(edges, outline="white", width=max(1, max(size) // 300))
    return shown


def cropped(photo: Image.Image, box: Box) -> Image.Image:
    """Return the crop."""
    part = photo.crop(box)
    return part.resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS) if part.width > _LARGEST else part


def key_of(crop: Image.Image, nouns: Sequence[str]) -> str:
    """Return what tells a crop and words from others."""
    return hashlib.sha256(crop.tobytes() + "\n".join(nouns).encode()).hexdigest()


def to_paint_on(crop: Image.Image, mask: Image.Image | None, colour: str, side: int = EDITED) -> dict[str, Any]:
    """Return what an editor shows: the crop, and a mask (white where a concept is) as a layer of colour."""
    size = (side, side)
    resampling = Image.Resampling.NEAREST if crop.width < side / 2 else Image.Resampling.LANCZOS
    background = crop.convert("RGB").resize(size, resampling)
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    if mask is not None:
        alpha = mask.convert("L").resize(size, Image.Resampling.BILINEAR).point(lambda v: _OPACITY if v > 127 else 0)
        layer = Image.new("RGBA", size, colour)
        layer.putalpha(alpha)
    together = Image.alpha_composite(background.convert("RGBA"), layer)
    return {"background": background, "layers": [layer], "composite": together}


def painted(edited: dict[str, Any] | None, size: tuple[int, int]) -> Image.Image | None:
    """Return what is painted in an editor, white on black at a size; ``None`` if nothing is."""
    layers = [layer for layer in (edited or {}).get("layers") or [] if layer is not None]
    if not layers:
        return None
    white = Image.new("L", layers[0].size)
    for layer in layers:
        alpha = layer.convert("RGBA").getchannel("A").resize(white.size)
        white.paste(255, mask=alpha.point(lambda v: 255 if v > _OPACITY // 3 else 0))
    if white.getbbox() is None:
        return None
    return white.resize(size, Image.Resampling.NEAREST)
