"""Reading pictures: whatever a camera or a scanner writes becomes an upright RGB picture, or a clear error.

Pillow guesses a format from the content and knows fifty, some of which start other programs; here it is asked for
pictures alone, and how large one is becomes known before it is decoded.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from ..disk.checked import shown
from ..disk.files import sha256_file
from ..disk.reading import as_path, open_regular
from ..errors import ImageError, InputError, MissingFileError
from .pixels import to_rgb, transparency, upright

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 16  # pixels; less than this shows no subject
MOST_PIXELS = 64_000_000  # decoding and converting so many takes less than a gigabyte
_FEWER_PIXELS = dict.fromkeys(("WEBP", "AVIF", "HEIF"), 40_000_000)  # their decoders keep several copies
LARGEST_REFERENCE = 4096  # pixels, the side of a pack's picture
_LARGEST_FILE = 256 << 20  # bytes
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*|data:.*", re.DOTALL)
_HALF = 128  # of 255
_TILE_SIZE = (322, 323)  # TIFF tags: width and length of a tile, which is decoded whole

PictureSource = str | os.PathLike | Image.Image | np.ndarray | bytes | bytearray | BinaryIO


def load_image(source: PictureSource, alpha: list[Image.Image] | None = None) -> Image.Image:
    """Return an upright RGB picture.

    CMYK, palette, 16-bit, transparent (shown on white) and EXIF-rotated pictures are converted; of several frames the
    first is taken.

    Args:
        source: a path, a picture, an array (uint8 ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``), the bytes of a file, or
            a file opened in binary mode. Files are PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF of at most 256 MB.
        alpha: what a picture shows of whatever is behind it is added here (mode ``L``), if it shows anything.

    Raises:
        MissingFileError: no such file.
        ImageError: not a picture, damaged, smaller than 16 pixels, or of more than 64 megapixels (WebP and AVIF: 40).
    """
    if isinstance(source, Image.Image):
        return _finished(source, "the picture", alpha=alpha)
    if isinstance(source, np.ndarray):
        return _finished(_from_array(source), "the picture", alpha=alpha)
    if isinstance(source, (str, os.PathLike)):
        if isinstance(source, str) and _URL.fullmatch(source):
            raise ImageError(f"{shown(source)} is an address; download the picture first and give the file")
        advice = "check the path of the picture"
        try:
            path = as_path(source, "picture")
            file = open_regular(path, limit=_LARGEST_FILE, kind=ImageError, advice=advice)
        except MissingFileError:
            raise
        except ImageError:
            raise
        except InputError as error:
            raise ImageError(str(error)) from error
        with file:
            return _decoded(file, str(path), alpha=alpha)
    return _decoded(io.BytesIO(_content(source)), "the picture", alpha=alpha)


def load_mask(source: PictureSource) -> Image.Image:
    """Return a mask as an RGB picture, white where something is; see :func:`load_image`.

    A transparent one has to be plain: white on transparent. Of anything else nobody knows whether its colours or its
    transparency are meant.

    Raises:
        ImageError: transparent parts beside colours; see also :func:`load_image`.
    """
    alpha: list[Image.Image] = []
    shown_on_white = load_image(source, alpha)
    if not alpha:
        return shown_on_white
    darkest: Any = shown_on_white.convert("L").getextrema()[0]
    if darkest < _HALF:
        raise ImageError(
            "a mask with transparent parts and colours can mean two things; save it without transparency, white where "
            "something is"
        )
    return alpha[0].point(lambda level: 255 if level >= _HALF else 0).convert("RGB")


def load_images(given: PictureSource | Iterable[PictureSource], what: str = "picture") -> list[Image.Image]:
    """Return upright RGB pictures out of one source or several; see :func:`load_image`.

    Args:
        given: a source, or a list of them; an array is one picture.
        what: how messages call them.

    Raises:
        ImageError: none, or nothing that holds pictures; see also :func:`load_image`.
    """
    single = (str, os.PathLike, Image.Image, np.ndarray, bytes, bytearray)
    if isinstance(given, single) or callable(getattr(given, "read", None)):
        return [load_image(given)]  # type: ignore[arg-type]
    try:
        sources = list(given)
    except TypeError as error:
        raise ImageError(f"give a {what} by a path, a PIL image, an array or bytes, got {shown(given)}") from error
    if not sources:
        raise ImageError(f"give at least one {what}")
    return [load_image(source) for source in sources]


def read_reference(content: bytes, name: str) -> Image.Image:
    """Return a pack's picture: a square RGB PNG of bounded size.

    Raises:
        ImageError: anything else.
    """
    image = _decoded(io.BytesIO(content), name, formats=("PNG",), smallest=1)
    check_reference(image, name)
    return image


def check_reference(image: Image.Image, name: str) -> None:
    """Raise :class:`ImageError` for a picture that a pack does not hold: it is square, RGB, at most 4096 pixels."""
    if image.mode != "RGB" or image.width != image.height or image.width > LARGEST_REFERENCE:
        raise ImageError(f"{name} must be a square RGB picture of at most {LARGEST_REFERENCE} pixels a side")


def _content(source: object) -> bytes:
    """The bytes of a picture's file out of memory, or out of a file that someone opened."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        content: object = bytes(source)
    elif callable(getattr(source, "read", None)):
        try:
            if source.seekable():  # type: ignore[attr-defined]
                source.seek(0)  # type: ignore[attr-defined]
            content = source.read(_LARGEST_FILE + 1)  # type: ignore[attr-defined]
        except (OSError, ValueError, AttributeError, TypeError) as error:  # ValueError: it is closed
            raise ImageError(f"the file cannot be read ({error}); open it again, in binary mode") from error
    else:
        raise ImageError(f"give a picture by a path, a PIL image, an array or bytes, got {shown(source)}")
    if not isinstance(content, bytes):
        raise ImageError("the file gives text instead of bytes; open it in binary mode")
    if len(content) > _LARGEST_FILE:
        raise ImageError(f"the picture's file has more than {_LARGEST_FILE:,} bytes; save it smaller")
    return content


def _from_array(values: np.ndarray) -> Image.Image:
    shape = values.shape
    if len(shape) >= 2 and shape[0] * shape[1] > MOST_PIXELS:  # before anything is copied
        raise _too_large("the array", f"{shape[1]}x{shape[0]} pixels")
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    right = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if values.dtype != np.uint8 or not right or not values.size:
        raise ImageError(
            f"an array of a picture is uint8 [H, W], [H, W, 3] or [H, W, 4], got {values.dtype} {list(shape)}; of "
            "numbers in [0, 1] give (255 * x).round().astype('uint8')"
        )
    return Image.fromarray(np.ascontiguousarray(values))


@cache
def _readable(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those formats that this Pillow, and what was registered with it, reads."""
    Image.init()
    return tuple(name for name in wanted if name in Image.OPEN)


def _decoded(
    file: BinaryIO | io.BytesIO,
    name: str,
    formats: tuple[str, ...] = _FORMATS,
    smallest: int = MIN_SIDE,
    alpha: list[Image.Image] | None = None,
) -> Image.Image:
    known = _readable(formats)
    try:
        image = Image.open(file, formats=known)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(name, f"{int(found[0]) / 1e6:.0f} megapixels" if found else "too many pixels") from error
    except Exception as error:  # of whichever decoder looked at a file that may hold anything
        readable = ", ".join(each for each in known if each != "MPO")
        raise ImageError(f"{name} cannot be read as a picture; give one of these: {readable}") from error
    return _finished(image, name, smallest, alpha)


_decoding = threading.Lock()  # a picture that was opened and not read yet may be given to several threads


def _finished(
    image: Image.Image, name: str, smallest: int = MIN_SIDE, alpha: list[Image.Image] | None = None
) -> Image.Image:
    """Decode a picture, if that is still to be done, and convert it."""
    if image.format is not None and image.format not in _FORMATS:
        raise ImageError(f"{name} is a {image.format} file; give image.convert('RGB') if it may be opened")
    most = _FEWER_PIXELS.get(image.format or "", MOST_PIXELS)
    if image.width * image.height > most or _tile_pixels(image) > most:
        raise _too_large(name, f"{image.width}x{image.height} pixels", most)
    if min(image.size) < smallest:
        raise ImageError(
            f"{name} is only {image.width}x{image.height} pixels; give one of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    try:
        with _decoding:
            image.load()
        held = upright(image)
        if alpha is not None and (seen_through := transparency(held)) is not None:
            alpha.append(seen_through)
        return to_rgb(held)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them
        why = f"damaged or of an unusual kind ({type(error).__name__})"
        raise ImageError(f"{name} cannot be read: it is {why}; open and save it again") from error


def _tile_pixels(image: Image.Image) -> int:
    tags: Any = getattr(image, "tag_v2", {})
    try:
        sides = [tags[tag] for tag in _TILE_SIZE if tag in tags]
        return int(sides[0]) * int(sides[1]) if len(sides) == 2 else 0
    except (TypeError, ValueError, OverflowError, KeyError):
        return MOST_PIXELS + 1  # no tile has such a size


def _too_large(name: str, size: str, most: int = MOST_PIXELS) -> ImageError:
    return ImageError(
        f"{name} has {size}, more than {most // 10**6} megapixels; scale it down, to 4096 pixels a side or less"
    )


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
    """Return the picture files of a folder, sorted; hidden ones, such as ``._a.png`` of macOS, are none.

    Raises:
        MissingFileError: no such folder.
        ImageError: it holds no pictures, or may not be read.
    """
    path = as_path(folder, "folder")
    try:
        if not path.is_dir():
            raise MissingFileError(f"there is no folder {path}; check the path of the class pictures")
        names = sorted(path.iterdir())
    except MissingFileError:
        raise
    except OSError as error:
        raise ImageError(f"the folder {path} cannot be read: {error.strerror or error}; check it") from error
    found = [p for p in names if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not found:
        raise ImageError(f"{path} holds no pictures; put PNG or JPEG files there")
    return found


def folder_hash(folder: str) -> str:
    """Return a hash of a folder's pictures and their captions; errors as in :func:`list_images`."""
    digest = hashlib.sha256()
    for path in list_images(folder):
        for file in (path, Path(path).with_suffix(".txt")):
            if file.is_file():
                digest.update(f"{file.name} {sha256_file(file)} ".encode(errors="surrogateescape"))
    return digest.hexdigest()


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
