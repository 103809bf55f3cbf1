"""Decoded pictures of every kind to upright RGB, a part at a time where a whole copy would take much memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..errors import ImageError

_ORIENTATION = 0x0112  # EXIF
_ROWS = 256  # that are scaled at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Return a decoded picture turned as its camera was held; damaged notes about that are passed over."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # cameras write EXIF that no library reads; the picture itself is whole
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    if "transparency" in image.info:
        turned.info["transparency"] = image.info["transparency"]
    return turned


def transparency(image: Image.Image) -> Image.Image | None:
    """Return the alpha of a decoded picture, mode ``L``; ``None`` if nothing shows through it."""
    if image.mode not in ("LA", "RGBA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture of any mode as RGB, transparent ones on white; always a new picture.

    Raises:
        ImageError: numbers that are none, or colours that cannot be converted.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_scaled(image))
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("PA",) or (image.mode not in ("LA", "RGBA") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, (0, 0), image)  # by its own alpha, without copies in between
        return canvas
    try:
        converted = image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"a picture of the colour space {image.mode} is not read; save it as RGB") from error
    converted.info = {}
    return converted


def _scaled(image: Image.Image) -> np.ndarray:
    """Grey levels of 16 and more bits as uint8; Pillow would clip instead of scaling, so that they came out white."""
    values: Any = np.asarray(image)
    highest = max(float(part.max()) for part in _parts(values))
    top = 65535.0 if highest > 255 else 255.0
    if image.mode == "F":
        if not all(np.isfinite(part).all() for part in _parts(values)):
            raise ImageError("the picture holds values that are no numbers; save it anew")
        top = 1.0 if highest <= 1 else top
    scaled = [(part.clip(0, top).astype(np.float32) / top * 255).round().astype(np.uint8) for part in _parts(values)]
    return np.concatenate(scaled)


def _parts(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + _ROWS] for start in range(0, len(values), _ROWS)]
