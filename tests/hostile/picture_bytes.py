"""Bytes under a picture's name: every format that Pillow knows, headers that lie, text of other programs."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_BASES = (
    *("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "DDS", "ICNS", "JPEG2000", "SGI", "XBM"),
    *("MSP", "IM", "SPIDER", "EPS", "PDF", "MPO", "DIB", "BLP", "AVIF", "QOI", "PNG", "JPEG", "TIFF", "WEBP"),
)
_TEXTS = {
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n",
    "postscript with a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(%pipe%touch x) (w) file\n%%EOF",
    "dos eps": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 32, 60, 0, 0, 0, 0, 0xFFFF)[:32]
    + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'><image href='http://127.0.0.1:9/'/></svg>",
    "html": b"<html><script>alert(1)</script></html>",
    "fits": b"SIMPLE  =                    T".ljust(80)
    + b"BITPIX  =                    8".ljust(80)
    + b"END".ljust(80) * 34,
    "psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + b"\0" * 60,
    "fli": struct.pack("<IHHHHHH", 128, 0xAF11, 1, 64, 64, 8, 3) + b"\0" * 112,
    "wmf": b"\xd7\xcd\xc6\x9a" + b"\0" * 18 + b"\1\0\x09\0" + b"\0" * 30,
    "emf": b"\1\0\0\0" + b"\0" * 36 + b" EMF" + b"\0" * 60,
    "grib": b"GRIB\0\0\0\1" + b"\0" * 100,
    "bufr": b"BUFR\0\0\0\4" + b"\0" * 100,
    "hdf5": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "xpm": b'/* XPM */\nstatic char *x[] = {\n"64 64 1 1",\n"a c #000000",\n' + b'"' + b"a" * 64 + b'",\n' * 64 + b"};",
    "mpeg": b"\0\0\1\xb3\x04\x00\x40" + b"\0" * 50,
    "zip": b"PK\3\4" + b"\0" * 60,
    "pickle": b"\x80\x04cos\nsystem\n(S'touch x'\ntR.",
    "elf": b"\x7fELF\2\1\1" + b"\0" * 60,
    "text": b"hello\n",
    "empty": b"",
    "zeros": b"\0" * 4096,
    "pcd": b"\0" * 2048 + b"PCD_" + b"\0" * 4000,
    "sun": struct.pack(">8I", 0x59A66A95, 64, 64, 8, 4096, 1, 0, 0) + b"\0" * 4096,
    "gbr": struct.pack(">IIIII", 28, 2, 64, 64, 4) + b"GIMP" + b"\0" * 50,
    "ole": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512,
    "ftex": b"FTEX" + b"\0" * 60,
    "vtf": b"VTF\0" + b"\0" * 80,
    "imt": b"*IMT*\nwidth 64\nheight 64\n\x0c" + b"\0" * 4096,
}
_SIDES = (0, 1, 15, 16, 17, 64, 1000, 13000, 30000, 46341, 65535, 65536, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


@functools.cache
def base(form: str, mode: str = "RGB", side: int = 32) -> bytes:
    """A valid picture in a format, a PNG where that is not possible."""
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    image = Image.fromarray(noise)
    buffer = io.BytesIO()
    for wanted in (mode, "RGB", "L", "1", "F"):
        try:
            buffer.seek(0)
            buffer.truncate()
            image.convert(wanted).save(buffer, form)
        except (OSError, ValueError, KeyError):
            continue
        return buffer.getvalue()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def hostile(rng: random.Random) -> tuple[bytes, str]:
    """Bytes to be taken for a picture, and what they are."""
    makers = (_edited,) * 6 + (_sized,) * 4 + (_text,) * 3 + (_moded,) * 2 + (_chunked, _directory, _joined)
    if rng.random() < 0.015:
        return _bomb(rng)
    return rng.choice(makers)(rng)


def _edited(rng: random.Random) -> tuple[bytes, str]:
    """A valid file with changed bytes: cut, header, anywhere, longer."""
    form = rng.choice(_BASES)
    data = bytearray(base(form, rng.choice(("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "LA"))))
    kind = rng.choice(("cut", "cut", "header", "header", "header", "flips", "removed", "inserted", "zeroed", "same"))
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "header":
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), 120))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    elif kind == "flips":
        for _ in range(rng.randint(1, 40)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "removed":
        start = rng.randrange(len(data))
        del data[start : start + rng.randint(1, 64)]
    elif kind == "inserted":
        start = rng.randrange(len(data))
        data[start:start] = rng.randbytes(rng.randint(1, 64))
    elif kind == "zeroed":
        start = rng.randrange(len(data))
        data[start:] = bytes(len(data) - start)
    return bytes(data), f"{form} {kind}"


def _text(rng: random.Random) -> tuple[bytes, str]:
    name = rng.choice(list(_TEXTS))
    return _TEXTS[name], name


def _sized(rng: random.Random) -> tuple[bytes, str]:
    """A header that states a size, and little behind it."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    form = rng.choice(("png", "bmp", "gif", "webp", "webp lossless", "jpeg", "tiff", "ppm", "tga", "ico", "pcx", "sgi"))
    data = bytearray(_STATED[form](width, height))
    return bytes(data), f"{form} said to be {width}x{height}"


def _png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, body: bytes | None = None, extra: bytes = b""
) -> bytes:
    packed = zlib.compress(b"\0" * 2000) if body is None else body
    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bmp(width: int, height: int) -> bytes:
    data = bytearray(base("BMP"))
    data[18:26] = struct.pack("<II", width & 0xFFFFFFFF, height & 0xFFFFFFFF)
    return bytes(data)


def _gif(width: int, height: int) -> bytes:
    data = bytearray(base("GIF", "P"))
    data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    start = data.find(b"\x2c\0\0\0\0")
    if start > 0:
        data[start + 5 : start + 9] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    body = struct.pack("<I", 0x10) + struct.pack("<I", width & 0xFFFFFF)[:3] + struct.pack("<I", height & 0xFFFFFF)[:3]
    inner = base("WEBP")[12:]
    whole = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + body[:10] + inner
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def _webp_lossless(width: int, height: int) -> bytes:
    bits = (width & 0x3FFF) | (height & 0x3FFF) << 14
    chunk = b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08" + b"\0" * 20
    whole = b"WEBP" + b"VP8L" + struct.pack("<I", len(chunk)) + chunk
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def _jpeg(width: int, height: int) -> bytes:
    data = bytearray(base("JPEG"))
    start = data.find(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(data)


def _tiff(
    width: int, height: int, tags: dict[int, tuple[int, int, int]] | None = None, body: bytes = b"\0" * 64
) -> bytes:
    """One strip, little-endian; ``tags``: type, count and value by number."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    entries |= {277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, len(body))} | (tags or {})
    packed = b"".join(
        struct.pack("<HHII", tag, *(v & (0xFFFF if i == 0 else 0xFFFFFFFF) for i, v in enumerate(entry)))
        for tag, entry in sorted(entries.items())
    )
    table = struct.pack("<H", len(entries)) + packed + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + table


_STATED: dict[str, Any] = {
    "png": _png,
    "bmp": _bmp,
    "gif": _gif,
    "webp": _webp,
    "webp lossless": _webp_lossless,
    "jpeg": _jpeg,
    "tiff": _tiff,
    "ppm": lambda w, h: f"P6\n{w} {h}\n255\n".encode() + b"\0" * 64,
    "tga": lambda w, h: (
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, w & 0xFFFF, h & 0xFFFF, 24, 0) + b"\xff\0\0\0" * 9
    ),
    "ico": lambda w, h: struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 99, 22) + _png(w, h),
    "pcx": lambda w, h: b"\n\5\1\x08" + struct.pack("<HHHH", 0, 0, (w - 1) & 0xFFFF, (h - 1) & 0xFFFF) + b"\0" * 200,
    "sgi": lambda w, h: struct.pack(">HBBHHHH", 474, 1, 1, 3, w & 0xFFFF, h & 0xFFFF, 3) + b"\0" * 600,
}


def _moded(rng: random.Random) -> tuple[bytes, str]:
    """Modes and metadata that pictures of the web rarely have."""
    kind = rng.choice(
        ("16 bit", "float", "not a number", "palette", "orientation", "grey alpha", "cmyk", "int32", "profile")
    )
    buffer = io.BytesIO()
    side = rng.choice((1, 15, 16, 33))
    noise = np.random.default_rng(rng.randrange(99)).random((side, side))
    if kind == "16 bit":
        Image.fromarray((noise * 65535).astype(np.uint16)).save(buffer, "PNG")
    elif kind in ("float", "not a number"):
        values = (noise * rng.choice((1, 255, 1e30, -5))).astype(np.float32)
        if kind == "not a number":
            values[rng.randrange(side), 0] = rng.choice((np.nan, np.inf, -np.inf))
        Image.fromarray(values).save(buffer, "TIFF")
    elif kind == "int32":
        Image.fromarray((noise * rng.choice((255, 2**31 - 1, -(2**31)))).astype(np.int32)).save(buffer, "TIFF")
    elif kind == "palette":
        image = Image.fromarray((noise * 255).astype(np.uint8)).convert("P")
        see = rng.choice((0, 255, b"\0" * 4, bytes(range(256)), bytes(300)))
        image.save(buffer, rng.choice(("PNG", "GIF")), transparency=see if not isinstance(see, bytes) else see[:256])
    elif kind == "orientation":
        junk = rng.choice((0, 1, 5, 8, 9, 255, 65535, "x", (1, 2)))
        tags = {274: (3, 1, junk)} if isinstance(junk, int) else {274: (2, 4, 0x41424344)}
        block = _tiff(1, 1, tags)
        block = rng.choice((block, block[:20], b"II*\0\xff\xff\xff\xff", rng.randbytes(30), b""))
        Image.fromarray((noise * 255).astype(np.uint8)).save(buffer, "JPEG", exif=b"Exif\0\0" + block)
    elif kind == "profile":
        Image.fromarray((noise * 255).astype(np.uint8)).save(buffer, "PNG", icc_profile=rng.randbytes(200))
    else:
        mode = {"grey alpha": "LA", "cmyk": "CMYK"}[kind]
        image = Image.fromarray((noise * 255).astype(np.uint8)).convert(mode)
        image.save(buffer, "PNG" if mode == "LA" else "TIFF")
    return buffer.getvalue(), f"{kind} {side}"


def _chunked(rng: random.Random) -> tuple[bytes, str]:
    """PNG chunks that are not as they should be."""
    odd = zlib.compress(b"x" * rng.choice((10, 2_000_000)))
    chunks = {
        "text": _chunk(b"tEXt", b"key\0" + b"v" * rng.choice((1, 200_000))),
        "packed text": _chunk(b"zTXt", b"key\0\0" + odd),
        "profile": _chunk(b"iCCP", b"name\0\0" + odd),
        "palette": _chunk(b"PLTE", b"\1" * rng.choice((1, 3, 768, 999))),
        "transparency": _chunk(b"tRNS", b"\1" * rng.choice((1, 6, 256, 999))),
        "animation": _chunk(b"acTL", struct.pack(">II", rng.choice((0, 1, 2**32 - 1)), 0)),
        "exif": _chunk(b"eXIf", rng.randbytes(20)),
        "name": _chunk(b"\0\1\2\3", b"x"),
        "length": b"\xff\xff\xff\xffIDAT",
        "physical": _chunk(b"pHYs", b"\0" * rng.choice((1, 9))),
    }
    name = rng.choice(list(chunks))
    colour, depth = rng.choice((0, 2, 3, 4, 6, 1, 7)), rng.choice((1, 2, 4, 8, 16, 3, 0))
    body = zlib.compress(bytes(32 * (1 + 32 * 8)))
    return _png(32, 32, depth=depth, colour=colour, extra=chunks[name], body=body), f"png {name} {colour}/{depth}"


def _directory(rng: random.Random) -> tuple[bytes, str]:
    """TIFF tags with odd types, counts and values."""
    tag = rng.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 338, 339, 34665, 700))
    entry = (rng.choice((1, 2, 3, 4, 5, 12, 0, 99)), rng.choice((0, 1, 2, 3, 2**16, 2**32 - 1)), rng.choice(_SIDES))
    return _tiff(32, 32, {tag: entry}, body=bytes(1024)), f"tiff tag {tag} {entry}"


def _joined(rng: random.Random) -> tuple[bytes, str]:
    one, other = rng.choice(_BASES), rng.choice(_BASES)
    return base(one)[: rng.choice((8, 40, 10**9))] + base(other), f"{one} then {other}"


def _bomb(rng: random.Random) -> tuple[bytes, str]:
    """Few bytes that are many pixels, whole and valid."""
    kind = rng.choice(("1 bit", "grey", "tiff"))
    side = rng.choice((9000, 13000)) if kind != "grey" else 9000
    if kind == "tiff":
        body = _zeros(side * side)
        return _tiff(side, side, {259: (3, 1, 8)}, body), f"bomb tiff {side}"
    depth = 1 if kind == "1 bit" else 8
    row = 1 + (side * depth + 7) // 8
    return _png(side, side, depth=depth, colour=0, body=_zeros(row * side)), f"bomb png {depth} bit {side}"


@functools.lru_cache(2)
def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])
