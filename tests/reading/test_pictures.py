"""Files that are called pictures: how large they are is known before they are decoded, and nothing else is started."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from sdk.errors import ImageError, InputError, MissingFileError
from sdk.images.captions import read_caption
from sdk.images.image_io import list_images, load_image, load_images, read_reference
from tests.reading.mutations import changed_bytes, read_or_refused


@pytest.fixture
def colourful():
    values = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    return Image.fromarray(values)


def blank_png(width, height, mode=0, depth=1):
    """A PNG of any size in a few bytes."""
    row = b"\0" * (1 + (width * depth * (3 if mode == 2 else 1) + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_everything_that_holds_a_picture(colourful, tmp_path):
    want = np.asarray(colourful)
    content = io.BytesIO()
    colourful.save(content, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content.getvalue())
    content.read()  # at its end: it is read from the start
    with path.open("rb") as opened:
        for source in (str(path), path, content, content.getvalue(), bytearray(content.getvalue()), opened, want):
            assert np.array_equal(np.asarray(load_image(source)), want)
    assert np.array_equal(np.asarray(load_image(want[..., 0]))[..., 1], want[..., 0])
    assert load_image(np.zeros((20, 20, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)  # transparent
    assert load_image(np.eye(20) > 0).getpixel((3, 3)) == (255, 255, 255)


def test_one_picture_or_several(colourful):
    values = np.asarray(colourful)
    for one in (colourful, values, io.BytesIO(blank_png(20, 20)), blank_png(20, 20)):
        assert len(load_images(one)) == 1
    assert [image.size for image in load_images(x for x in (colourful, blank_png(20, 30)))] == [(40, 24), (20, 30)]
    for none in ([], 5, None):
        with pytest.raises(ImageError):
            load_images(none)


def test_a_path_of_the_home_folder(colourful, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    colourful.save(tmp_path / "photo.png")
    assert load_image("~/photo.png").size == colourful.size


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/cat.png", "download the picture first"),
        ("file:///cat.png", "download the picture first"),
        ("a\0b.png", "NUL"),
        ("x" * 300, "cannot be read"),
        ("/dev/zero", "no regular file"),
        (None, "got None"),
        (7, "got 7"),
        (["a.png"], "by a path"),
        (b"hello", "cannot be read as a picture"),
        (io.StringIO("hello"), "binary mode"),
        (np.zeros((20, 20, 3)), "uint8"),
        (np.zeros((20, 20, 2), np.uint8), "uint8"),
        (np.zeros((0, 20, 3), np.uint8), "uint8"),
    ],
)
def test_what_holds_no_picture(source, message):
    with pytest.raises(ImageError, match=message):
        load_image(source)


def test_text_that_is_no_unicode_is_no_file(tmp_path):
    with pytest.raises((ImageError, MissingFileError)):
        load_image(str(tmp_path / "\udcff\ud800.png"))


def test_a_closed_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with (tmp_path / "a.png").open("rb") as opened:
        pass
    with pytest.raises(ImageError, match="open it again"):
        load_image(opened)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such pipes")
def test_a_pipe_and_a_socket_do_not_hang(tmp_path, monkeypatch):
    import socket

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # paths of sockets are short
        server.bind("s.png")
        for name in ("pipe.png", "link.png", "s.png"):
            with pytest.raises(ImageError, match="no regular file"):
                load_image(tmp_path / name)


def test_no_other_program_is_started(tmp_path, monkeypatch):
    """Pillow knows PostScript and reads it by a program; whichever formats it knows, these are not asked for."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program would be started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.png").write_bytes(script)
    for source in (tmp_path / "photo.png", script):
        with pytest.raises(ImageError, match="one of these: PNG, JPEG"):
            load_image(source)
    with pytest.raises(ImageError):
        read_reference(script, "reference.png")
    with Image.open(io.BytesIO(script)) as opened, pytest.raises(ImageError, match="is a EPS file"):
        load_image(opened)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize(("width", "height"), [(8100, 8100), (60000, 2000), (14000, 14000), (40000, 40000)])
def test_a_large_picture_is_refused_before_it_is_decoded(width, height):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="scale it down, to 4096") as caught:
        load_image(blank_png(width, height))
    assert "megapixels" in str(caught.value)
    assert "JPEG" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes


def tiled_tiff(tile, side=32):
    """A grey TIFF of one compressed tile of any size."""
    data = zlib.compress(b"\0" * min(tile * tile, 1 << 20))
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def test_a_tile_larger_than_its_picture_is_refused():
    """A tile is decoded whole, whatever the picture's own size."""
    assert load_image(tiled_tiff(64)).size == (32, 32)
    with pytest.raises(ImageError, match="scale it down"):
        load_image(tiled_tiff(32000))


MEMORY = """
import resource, sys
from sdk.images.image_io import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_image(sys.stdin.buffer.read())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("kind", ["16-bit", "rgb", "webp"])
def test_the_largest_pictures_take_less_than_a_gigabyte(kind):
    if kind == "webp":
        content = io.BytesIO()
        Image.new("RGBA", (6320, 6320)).save(content, "WEBP", lossless=True, method=0)
        data = content.getvalue()
    else:
        data = blank_png(7990, 7990, *((0, 16) if kind == "16-bit" else (2, 8)))
    done = subprocess.run([sys.executable, "-c", MEMORY], input=data, capture_output=True, check=True)
    assert int(done.stdout) < 1_000_000  # kilobytes


def test_deep_pictures_are_scaled_as_before(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    want = (ramp.astype(np.float64) / 65535 * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png"))[..., 0], want)
    Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)).save(tmp_path / "f.tif")
    assert np.asarray(load_image(tmp_path / "f.tif")).max() == 255
    Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ImageError, match="no numbers"):
        load_image(tmp_path / "nan.tif")


def test_half_transparent_pixels_lie_on_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert all(abs(level - 127) <= 1 for level in load_image(tmp_path / "a.png").getpixel((3, 3)))


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, _, blue = load_image(tmp_path / name).getpixel((5, 5))
        assert red > 200 > blue


def test_damaged_notes_about_the_camera_cost_nothing(colourful, tmp_path):
    content = io.BytesIO()
    colourful.save(content, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    assert load_image(content).size == colourful.size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_changed_pictures(colourful, kind):
    rng = random.Random(kind)
    content = io.BytesIO()
    colourful.save(content, kind)
    for _ in range(60):
        data = changed_bytes(content.getvalue(), rng)
        found = read_or_refused(lambda: load_image(data))  # noqa: B023, read at once
        assert found is None or found.mode == "RGB"


def test_the_reference_of_a_pack_is_a_square_png(colourful):
    def written(image, kind="PNG"):
        content = io.BytesIO()
        image.save(content, kind)
        return content.getvalue()

    square = colourful.crop((0, 0, 20, 20))
    assert read_reference(written(square), "r").tobytes() == square.tobytes()
    for content in (written(square, "JPEG"), written(colourful), blank_png(4097, 4097)):
        with pytest.raises(ImageError):
            read_reference(content, "r")


def test_hidden_files_are_no_pictures(colourful, tmp_path):
    colourful.save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\0\x05\x16\x07")
    assert [p.name for p in list_images(tmp_path)] == ["a.png"]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"a cat\n on\tthe  beach\r\n", "a cat on the beach"),
        ("﻿a café".encode(), "a café"),
        (b"", ""),
    ],
)
def test_captions(tmp_path, content, want):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_caption(tmp_path / "a.txt") == want


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a café".encode("latin-1"), "save it as UTF-8"),
        ("a cat".encode("utf-16"), "UTF-8"),
        (b"a" * 3000, "at most 2000"),
    ],
)
def test_captions_that_are_none(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_caption(tmp_path / "a.txt")
    assert "a.txt" in str(caught.value)
