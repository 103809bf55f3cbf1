"""Paths to write to: taken, linked, too long, odd; what was there stays."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from . import honest
from .case import Case, Place, Silent
from .values import odd_name


def paths(rng: random.Random, place: Place) -> Case:
    """One of the calls that write, to an odd place."""
    kind = rng.choice(tuple(_PLACES))
    target = _PLACES[kind](rng, place)
    before = {path: path.read_bytes() for path in place.out.rglob("*") if path.is_file() and not path.is_symlink()}
    way = rng.choice(
        ("save", "save", "adapter", "lora", "webui", "diffusers", "generate", "generate", "masks", "merge", "fit")
    )
    allowed = (place.cwd,) if kind in ("here", "empty", "odd relative", "tilde", "an object") else ()

    def run() -> list[str]:
        notes = _WAYS[way](place, target)
        honest.untouched(before)
        return notes

    return Case(f"{way} to {kind}: {str(target)[-60:]!r}", _keeping(run, before), allowed=allowed)


def _keeping(run: Any, before: dict[Path, bytes]) -> Any:
    """Whatever happens, what was there stays."""
    from sdk.errors import SdkError

    def checked() -> list[str]:
        try:
            return run()
        except SdkError:
            honest.untouched(before)
            raise

    return checked


def _file(rng: random.Random, place: Place) -> Path:
    path = place.out / "taken"
    path.write_bytes(b"precious")
    return rng.choice((path, path / "below", path / "below" / "further"))


def _folder(rng: random.Random, place: Place) -> Path:
    path = place.out / "full"
    path.mkdir()
    for name in (
        "letter.txt",
        rng.choice((".hidden", "00-00.png", "new1.safetensors", "mask-new1.png", "personalizer.json.bak")),
    ):
        (path / name).write_bytes(b"precious")
    return path


def _link(rng: random.Random, place: Place) -> Path:
    (place.out / "there").mkdir()
    path = place.out / "link"
    path.symlink_to(rng.choice(("there", "nowhere", "link")) if rng.random() < 0.8 else "/dev/null")
    return path


def _fifo(rng: random.Random, place: Place) -> Path:
    path = place.out / "pipe"
    os.mkfifo(path)
    return rng.choice((path, path / "below"))


def _closed(rng: random.Random, place: Place) -> Path:
    path = place.out / "closed"
    path.mkdir(mode=0o500)
    return path / "pack"


def _odd(rng: random.Random, place: Place) -> str:
    name = odd_name(rng).lstrip("/~")
    # What leads out of the folder by itself is the user's own wish, and no fault.
    return str(place.out / (name.replace("..", "__").strip("./") or "x"))[:4000]


_PLACES: dict[str, Any] = {
    "a file": _file,
    "a full folder": _folder,
    "a link": _link,
    "a pipe": _fifo,
    "a closed folder": _closed,
    "an odd name": _odd,
    "odd relative": lambda rng, place: odd_name(rng).lstrip("/~").replace("..", "__")[:200] or "x",
    "a long part": lambda rng, place: place.out / ("x" * rng.choice((255, 256, 250, 245, 4000))),
    "a long path": lambda rng, place: str(place.out) + ("/" + "x" * 200) * rng.choice((5, 25)),
    "here": lambda rng, place: rng.choice((".", "./", "")),
    "empty": lambda rng, place: rng.choice(("", " ", "  x")),
    "tilde": lambda rng, place: rng.choice(("~nobody-there/x", "~~")),
    "a nul": lambda rng, place: f"{place.out}/a\0b",
    "no text": lambda rng, place: f"{place.out}/\udcff\udcfe",
    "a surrogate": lambda rng, place: f"{place.out}/\ud800",
    "an object": lambda rng, place: rng.choice((None, 5, b"bytes", [], object(), 1.5, True)),
    "a device": lambda rng, place: rng.choice(("/dev/null", "/dev/null/x", "/dev/full")),
    "a fine place": lambda rng, place: place.out / "new" / "folder",
}


def _saved(place: Place, target: Any) -> list[str]:
    from sdk import ConceptPack

    written = place.assets.loaded.save_pretrained(target)
    if ConceptPack.from_pretrained(written).content_hash() != place.assets.loaded.content_hash():
        raise Silent("another pack was saved")
    return []


def _adapter(place: Place, target: Any) -> list[str]:
    from sdk.deploy.adapters import read_adapter

    read_adapter(place.assets.loaded.export_adapter(target))
    return []


def _exported(form: str) -> Any:
    def export(place: Place, target: Any) -> list[str]:
        from sdk.exports import load_format

        result = load_format(form).export(place.assets.loaded, place.assets.engine, target)
        if not all(path.exists() for path in result.paths):
            raise Silent("what was written is not there")
        return []

    return export


def _command(*arguments: str) -> Any:
    def line(place: Place, target: Any) -> list[str]:
        from .commands import call, possible

        text = possible(str(target))
        named = {"PACK": str(place.assets.pack), "PHOTO": str(place.assets.photo)}
        model = ["--model", str(place.assets.model), "--device", "cpu", f"--output={text}"]
        return honest.printed(*call([named.get(a, a) for a in arguments] + model))

    return line


def _fitted(place: Place, target: Any) -> list[str]:
    """Up to the first step: by then it is known whether the pack can be written."""
    import threading

    from sdk.runtime import Cancelled

    stop = threading.Event()
    config = place.assets.config.with_changes(prior="none", masks={"draws": 1})
    try:
        place.assets.engine.fit(
            place.assets.picture,
            ["cat"],
            config=config,
            seed=1,
            output_dir=target,
            callback=lambda report: stop.set(),
            cancel=stop,
        )
    except Cancelled:
        pass
    finally:
        place.assets.engine.unload_pack()
    return []


_WAYS: dict[str, Any] = {
    "save": _saved,
    "adapter": _adapter,
    "lora": _exported("lora"),
    "webui": _exported("webui"),
    "diffusers": _exported("diffusers"),
    "generate": _command("generate", "PACK", "--prompt", "a <new1> cat", "--steps", "1", "--num-images", "1"),
    "masks": _command("masks", "PHOTO", "--concept", "cat"),
    "merge": _command("merge", "PACK", "PACK"),
    "fit": _fitted,
}
