"""Pictures: files of hostile bytes, things that are no files, and objects of Python handed over as a picture."""

from __future__ import annotations

import io
import os
import random
from typing import Any

import numpy as np
from PIL import Image

from . import honest, picture_bytes
from .case import ANY, REFUSE, Case, Place
from .values import odd_name, odd_python

_ENDINGS = (".png", ".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", "", ".PNG", ".eps", ".jpeg")


def files(rng: random.Random, place: Place) -> Case:
    """Hostile bytes under a picture's name."""
    data, what = picture_bytes.hostile(rng)
    path = place.inputs / f"photo{rng.choice(_ENDINGS)}"
    path.write_bytes(data)
    if rng.random() < 0.15:
        return _used(rng, place, path, what)

    def run() -> None:
        from sdk.images.image_io import load_image

        honest.picture(load_image(rng.choice((path, str(path)))))

    return Case(what, run)


def objects(rng: random.Random, place: Place) -> Case:
    """What is no file with a picture in it."""
    thing, what, expect = rng.choice((_array, _array, _opened, _image, _image, _path, _path, _other))(rng, place)
    if rng.random() < 0.15:
        return _used(rng, place, thing, what, expect)

    def run() -> None:
        from sdk.images.image_io import load_image

        honest.picture(load_image(thing))

    return Case(what, run, expect)


def _used(rng: random.Random, place: Place, thing: Any, what: str, expect: str = ANY) -> Case:
    """The same in a call that takes pictures."""
    engine, runtime, photo = place.assets.engine, place.assets.runtime, place.assets.photo
    common = {"seed": 1, "num_inference_steps": 2, "guidance_scale": 2}
    calls = {
        "img2img": lambda: engine.img2img(thing, "a cat", strength=0.5, **common),
        "inpaint": lambda: engine.inpaint(thing, thing, "a cat", **common),
        "mask": lambda: engine.inpaint(photo, thing, "a cat", **common),
        "onnx img2img": lambda: runtime.img2img(thing, "a cat", strength=0.5, **common),
        "onnx mask": lambda: runtime.inpaint(photo, thing, "a cat", **common),
    }
    name = rng.choice(list(calls))

    def run() -> list[str]:
        return honest.drawn(calls[name](), 1, (32, 32))

    return Case(f"{name}: {what}", run, expect)


def _array(rng: random.Random, place: Place) -> tuple[Any, str, str]:
    shape = rng.choice(
        (
            *((32, 32, 3), (3, 32, 32), (32, 32), (32, 32, 1), (32, 32, 4), (1, 32, 32, 3), (32, 32, 2), (32, 32, 7)),
            *((0, 0, 3), (32,), (), (1, 1, 3), (32, 0), (2, 40000, 3)),
        )
    )
    kind = rng.choice((np.uint8, np.uint8, np.float32, np.float64, np.int64, np.bool_, np.uint16, np.complex64, object))
    numbers = np.asarray(np.random.default_rng(0).random(shape) * 2)  # of no dimension it gives a number
    values = np.zeros(shape, kind) if kind is object else numbers.astype(kind)
    expect = ANY
    if kind in (np.float32, np.float64) and values.size and rng.random() < 0.4:
        values[(0,) * values.ndim] = rng.choice((np.nan, np.inf, -np.inf))
        expect = REFUSE
    if rng.random() < 0.1:
        values = np.broadcast_to(values, values.shape)[::-1] if values.ndim else values
    return values, f"array {shape} {np.dtype(kind)}", expect


def _opened(rng: random.Random, place: Place) -> tuple[Any, str, str]:
    data, what = picture_bytes.hostile(rng) if rng.random() < 0.7 else (picture_bytes.base("PNG"), "whole")
    kind = rng.choice(("bytes", "bytearray", "memoryview", "BytesIO", "closed", "at its end", "file", "text file"))
    path = place.inputs / "photo.png"
    path.write_bytes(data)
    stream = io.BytesIO(data)
    if kind == "closed":
        stream.close()
    elif kind == "at its end":
        stream.seek(0, 2)
    opened: Any = {"bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data)}.get(kind, stream)
    if kind == "file":
        opened = path.open("rb")
    elif kind == "text file":
        opened = path.open(encoding="latin-1")
    return opened, f"{kind} of {what}", ANY


def _image(rng: random.Random, place: Place) -> tuple[Any, str, str]:
    mode = rng.choice(
        (
            "1",
            "L",
            "P",
            "RGB",
            "RGBA",
            "CMYK",
            "YCbCr",
            "LAB",
            "HSV",
            "I",
            "F",
            "LA",
            "PA",
            "La",
            "RGBa",
            "RGBX",
            "I;16",
        )
    )
    size = rng.choice(((32, 32), (16, 16), (15, 40), (0, 0), (1, 1), (0, 50), (17, 3000), (33, 64)))
    image = Image.new(mode, size)
    expect = ANY
    kind = rng.choice(("plain", "plain", "closed", "lazy", "info", "noise", "nan"))
    if kind == "nan" and all(size):
        image = Image.fromarray(np.full((size[1], size[0]), np.nan, np.float32))
    elif kind == "closed":
        image = Image.open(io.BytesIO(picture_bytes.base("PNG")))
        image.close()
    elif kind == "lazy":  # opened, not read, and damaged behind its header
        image = Image.open(io.BytesIO(picture_bytes.base("PNG")[: rng.choice((60, 500, 2000))]))
    elif kind == "info":
        image.info["transparency"] = rng.choice((0, -1, 999, b"\0", "x", (1, 2, 3), (1, 2), None))
        image.info["exif"] = rng.choice((b"junk", "text", 5, b"Exif\0\0II*\0"))
    elif kind == "noise" and mode in ("I", "F") and all(size):
        values = np.random.default_rng(0).random((size[1], size[0])) * rng.choice((1e9, -1e9, 1e30))
        image = Image.fromarray(values.astype(np.float32 if mode == "F" else np.int64).astype(np.float32))
    return image, f"image {mode} {size} {kind}", expect


def _path(rng: random.Random, place: Place) -> tuple[Any, str, str]:
    folder = place.inputs
    good = folder / "good.png"
    good.write_bytes(picture_bytes.base("PNG"))
    kind = rng.choice(
        (
            *("fifo", "folder", "dangling", "loop", "link", "device", "missing", "long", "long part", "nul", "bytes"),
            *("surrogate", "empty", "url", "home", "odd", "odd", "socket", "unreadable", "below a file", "relative"),
        )
    )
    path: Any = folder / "thing.png"
    expect = REFUSE
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere.png")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "link":
        path.symlink_to(good)
        expect = ANY
    elif kind == "device":
        path = rng.choice(
            ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/tty", "/proc/self/mem", "/proc/self/environ")
        )
    elif kind == "long":
        path = str(folder) + "/x" * 3000 + ".png"
    elif kind == "long part":
        path = folder / ("x" * 300 + ".png")
    elif kind == "nul":
        path = f"{folder}/a\0b.png"
    elif kind == "bytes":
        path, expect = os.fsencode(good), ANY
    elif kind == "surrogate":
        path = f"{folder}/\udcff\ud800.png"
    elif kind == "empty":
        path = rng.choice(("", " ", ".", "..", "/"))
    elif kind == "url":
        path = rng.choice(
            ("http://127.0.0.1:9/a.png", "https://example.invalid/a.png", "file:///etc/passwd", "data:,x")
        )
    elif kind == "home":
        path = rng.choice(("~", "~/photo.png", "~nobody-there/photo.png"))
    elif kind == "odd":
        name = odd_name(rng)
        path, expect = folder / name.strip("/").replace("/", "_")[:80], ANY
        if name.strip("/. "):
            path.write_bytes(picture_bytes.base("PNG"))
    elif kind == "socket":
        import socket

        short = f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"{short}/thing.png")
    elif kind == "unreadable":
        path.write_bytes(picture_bytes.base("PNG"))
        path.chmod(0)
        expect = ANY  # a superuser reads it
    elif kind == "below a file":
        path = good / "photo.png"
    elif kind == "relative":
        path = "photo.png"
    return path, f"path: {kind}", expect


def _other(rng: random.Random, place: Place) -> tuple[Any, str, str]:
    value = odd_python(rng)
    return value, f"object {value!r:.80}", ANY
