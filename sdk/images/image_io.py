"""Reading pictures: whatever a camera or a scanner writes becomes an upright RGB picture, or a clear error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, MissingFileError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 16  # pixels; less than this shows no subject
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """Return an upright RGB picture.

    CMYK, palette, 16-bit, transparent (shown on white) and EXIF-rotated pictures are converted.

    Args:
        source: a path or a picture.

    Raises:
        MissingFileError: no such file.
        ImageError: not a picture, damaged, or smaller than 16 pixels.
    """
    if isinstance(source, Image.Image):
        image, name = source, "the picture"
    else:
        path = Path(source)
        name = str(path)
        if not path.exists():
            raise MissingFileError(f"there is no file {name}; check the path of the picture")
        if path.is_dir():
            raise ImageError(f"{name} is a folder; give the path of one picture")
        try:
            image = Image.open(path)
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageError(f"{name} cannot be read as a picture; give a PNG, JPEG or WebP file") from error
    image = _to_rgb(ImageOps.exif_transpose(image))
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{name} is only {image.width}x{image.height} pixels; give one of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # PIL clips instead of scaling; 16-bit pictures would come out white.
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values.clip(0, top) / top * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, side: int) -> Image.Image:
    """Cut the centre square and resize it to ``side`` pixels (bicubic)."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    cut = image.crop((left, top, left + edge, top + edge))
    return cut if edge == side else cut.resize((side, side), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture to float32 ``[3, H, W]`` in [-1, 1]."""
    import torch  # here, because deployment cuts pictures without it

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


def list_images(folder: str | Path) -> list[Path]:
    """Return the picture files of a folder, sorted.

    Raises:
        MissingFileError: no such folder.
        ImageError: it holds no pictures.
    """
    path = Path(folder)
    if not path.is_dir():
        raise MissingFileError(f"there is no folder {path}; check the path of the class pictures")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"{path} holds no pictures; put PNG or JPEG files there")
    return found


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
