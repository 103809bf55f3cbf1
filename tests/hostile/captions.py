"""Folders of prior pictures with captions beside them, and caches of generated ones, as they are found."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from . import honest, picture_bytes
from .case import ANY, REFUSE, Case, Place, Silent
from .values import odd_encoding, odd_name, odd_text


def _asked(place: Place, **changes: Any) -> list[Any]:
    from sdk import Concept
    from sdk.fit import priors_for

    concepts = [Concept(noun, f"<new{i}>") for i, noun in enumerate(("cat", "dog"), start=1)]
    return priors_for(place.assets.engine, concepts, place.assets.config.with_changes(**changes))


def folders(rng: random.Random, place: Place) -> Case:
    """A user's folder: odd captions, odd names, files of the system beside the pictures."""
    folder = place.inputs / "class-images"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(picture_bytes.base("PNG" if name == "a.png" else "JPEG"))
    kind = rng.choice(
        (
            *("text",) * 5,
            *("system file",) * 3,
            *(
                "picture",
                "picture",
                "name",
                "name",
                "empty",
                "fifo",
                "folder",
                "caption fifo",
                "dangling",
                "none",
                "loop",
                "huge",
            ),
        )
    )
    what, expect = kind, ANY
    caption = folder / "a.txt"
    if kind == "text":
        data, how = odd_encoding(rng, odd_text(rng) or "a photo")
        caption.write_bytes(data)
        what = f"caption {how}"
    elif kind == "system file":  # macOS and Windows leave these; they are no pictures of the user's
        name = rng.choice(("._a.png", "._b.jpg", ".DS_Store", "Thumbs.db", ".a.png.swp", "a.png.part", "._a.txt"))
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(50))
        what = name
    elif kind == "picture":
        data, what = picture_bytes.hostile(rng)
        (folder / rng.choice(("a.png", "c.webp", "c.tif"))).write_bytes(data)
    elif kind == "name":
        name = odd_name(rng).replace("/", "_")[:60]
        (folder / f"{name}.png").write_bytes(picture_bytes.base("PNG"))
        what = f"name {name!r}"
    elif kind == "empty":
        caption.write_bytes(rng.choice((b"", b" \n", b"\xef\xbb\xbf", b"\0")))
    elif kind == "huge":
        caption.write_text("word " * rng.choice((1000, 400_000)))
    elif kind in ("fifo", "caption fifo"):
        os.mkfifo(caption if kind != "fifo" else folder / "c.png")
    elif kind == "folder":
        (folder / rng.choice(("c.png", "a.txt"))).mkdir()
    elif kind in ("dangling", "loop"):
        (folder / "c.png").symlink_to("nowhere.png" if kind == "dangling" else "c.png")
        expect = ANY
    else:
        shutil.rmtree(folder)
        if rng.random() < 0.5:
            folder.mkdir()
        expect = REFUSE

    def run() -> None:
        for prior in _asked(place, prior=str(folder)):
            honest.picture(prior.image, (32, 32))
            if not prior.caption.strip() or prior.caption.startswith("\ufeff"):
                raise Silent(f"the caption {prior.caption[:40]!r}")

    return Case(what, run, expect)


def caches(rng: random.Random, place: Place) -> Case:
    """A cache entry that is not as it was written: the priors are those of a fresh one, or it is an error."""
    shutil.copytree(place.assets.cache, place.cache, dirs_exist_ok=True)
    entry = next(path for path in place.cache.rglob("00000*.png")).parent
    pictures = sorted(entry.glob("0*.png"))
    what = _changed(rng, entry, pictures)
    expected = _expected(place)

    def run() -> None:
        got = _asked(place)
        if [p.caption for p in got] != [caption for _, caption in expected]:
            raise Silent("other captions than those that are drawn for")
        for prior, (image, _) in zip(got, expected, strict=True):
            off = np.abs(np.asarray(prior.image, int) - image).max() if prior.image.size == (32, 32) else 255
            if off > ROUNDING:
                raise Silent(f"another prior than is drawn, {off} levels off")

    return Case(what, run)


def _changed(rng: random.Random, entry: Path, pictures: list[Path]) -> str:
    kind = rng.choice(
        (
            *("deleted", "deleted", "added", "exchanged", "cut", "text", "other", "hostile", "about", "no about"),
            *("folder", "fifo", "resized", "renamed", "empty entry", "file instead", "all deleted", "link", "names"),
        )
    )
    one, other = rng.sample(pictures, 2)
    if kind == "deleted":
        one.unlink()
    elif kind == "all deleted":
        for path in pictures:
            path.unlink()
    elif kind in ("added", "names"):
        name = rng.choice(("00000a.png", "99999.png", f"._{one.name}", "0.png", "00004.png", f"0{one.name}"))
        shutil.copy(one, entry / name)
    elif kind == "exchanged":
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    elif kind == "cut":
        data = one.read_bytes()
        one.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "text":
        one.write_bytes(rng.choice((b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")))
    elif kind == "other":
        one.write_bytes(picture_bytes.base("PNG"))
    elif kind == "hostile":
        one.write_bytes(picture_bytes.hostile(rng)[0])
    elif kind in ("about", "no about"):  # the record itself, where there is one
        for record in entry.glob("*.json"):
            data = odd_encoding(rng, record.read_text())[0]
            record.unlink()
            if kind == "about":
                record.write_bytes(data)
    elif kind == "folder":
        one.unlink()
        one.mkdir()
    elif kind == "fifo":
        one.unlink()
        os.mkfifo(one)
    elif kind == "resized":
        from PIL import Image

        with Image.open(one) as opened:
            larger = opened.resize((64, 64))
        larger.save(one)
    elif kind == "renamed":
        one.rename(entry / "zzzzz.png")
    elif kind == "empty entry":
        shutil.rmtree(entry)
        entry.mkdir()
    elif kind == "file instead":
        shutil.rmtree(entry)
        entry.write_bytes(b"x")
    else:
        one.unlink()
        one.symlink_to(other.name)
    return kind


ROUNDING = 2  # levels: a picture that is drawn again alone is that of a batch up to the order of sums
_known: dict[Path, list[tuple[Any, str]]] = {}


def _expected(place: Place) -> list[tuple[Any, str]]:
    """The priors as they are drawn, read once from the untouched cache."""
    own = place.assets.cache
    if own not in _known:
        before = os.environ["PERSONALIZER_CACHE"]
        os.environ["PERSONALIZER_CACHE"] = str(own)
        try:
            _known[own] = [(np.asarray(p.image, int), p.caption) for p in _asked(place)]
        finally:
            os.environ["PERSONALIZER_CACHE"] = before
    return _known[own]
