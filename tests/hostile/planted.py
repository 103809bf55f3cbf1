"""Cases planted to see that what may not be is noticed, and that what is valid is taken; no campaign runs them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from . import adapters, authors, honest, onnx_stand_in, packs, tensor_files
from .case import ANY, NOTE, REFUSE, Case, Maker, Place, Silent
from .values import to_json


def _raises(error: BaseException) -> Callable[[], Any]:
    def run() -> None:
        raise error

    return run


def _sdk_error(message: str) -> Callable[[], Any]:
    def run() -> None:
        from sdk.errors import InputError

        class Raw(InputError):
            def __init__(self) -> None:
                Exception.__init__(self, message)  # past what makes it printable

        raise Raw

    return run


def _takes_memory() -> None:
    held = bytearray(1_200_000_000)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])


def _library_writes(place: Place) -> None:
    """As a library in C does, of which Python tells nothing."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, place.home / "x.safetensors")


def _works(place: Place) -> None:
    (place.out / "result").mkdir()
    (place.out / "result" / "file").write_text("fine")
    (place.temporary / "scratch").write_text("gone at once")
    (place.temporary / "scratch").unlink()


def _accepted(run: Callable[[Place], Any]) -> Callable[[Place], Any]:
    """A valid input that is refused would leave the deeper checks untried."""

    def checked(place: Place) -> Any:
        from sdk.errors import SdkError

        try:
            return run(place)
        except SdkError as error:
            raise AssertionError(f"a valid input was refused: {error}") from error

    return checked


def _pack(place: Place) -> Any:
    from sdk import ConceptPack

    files = dict(place.assets.files)
    tree = json.loads(files[packs.MANIFEST])
    for name in list(files):
        if name.endswith(".safetensors"):
            files[name] = tensor_files.packed(tensor_files.arrays(files[name]))
    packs.fix_hashes(tree, files)
    before = tree.pop("content_sha256")
    tensor_files.fix_content_hash(tree, files)
    if tree["content_sha256"] != before:
        raise AssertionError("the hash of the content is made another way now")
    files[packs.MANIFEST] = to_json(tree).encode()
    folder = place.out / "pack"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return honest.pack(ConceptPack.from_pretrained(folder), place, random.Random(0))


def _adapter(place: Place) -> None:
    from sdk.deploy.adapters import read_adapter

    values, about = adapters.read(place)
    about["sha256"] = adapters.digest(values)
    adapters.write(place.out / "a.onnx_adapter", values, to_json(about).encode())
    read_adapter(place.out / "a.onnx_adapter")


def _exported(place: Place) -> Any:
    from sdk.deploy import OnnxPersonalizer

    folder = place.out / "exported"
    shutil.copytree(place.assets.exported, folder)
    (folder / "scheduler" / "extra.txt").touch()
    about = json.loads((folder / onnx_stand_in.MANIFEST).read_text())
    onnx_stand_in.fix_hashes(folder, about)
    (folder / onnx_stand_in.MANIFEST).write_text(to_json(about))
    drawn = OnnxPersonalizer.from_pretrained(folder).generate("a cat", seed=1, num_inference_steps=2)
    return honest.drawn(drawn, 1, (32, 32))


def _author(place: Place) -> Any:
    import torch

    from sdk.exports import import_pack

    weights, rows = authors.valid(place)
    torch.save({"unet": weights, "modifier_token": rows}, place.out / "delta.bin")
    read = import_pack(place.out / "delta.bin", ["cat", "dog"], place.assets.engine, allow_pickle=True)
    return honest.pack(read, place, random.Random(0))


def _resumes(place: Place) -> Any:
    """The checkpoint takes the fit on: its first report is of the second step."""
    shutil.copytree(place.assets.partial, place.out / "pack.partial")
    shutil.copytree(place.assets.cache, place.cache, dirs_exist_ok=True)
    steps: list[int] = []
    stop = threading.Event()

    def see(report: Any) -> None:
        steps.append(report.step)
        stop.set()

    from sdk.runtime import Cancelled

    with contextlib.suppress(Cancelled):
        place.assets.fit(place.out / "pack", resume=True, callback=see, cancel=stop)
    if steps[0] != 2:
        raise AssertionError(f"a valid checkpoint was not read: went on with step {steps[0]}")


# By name: what it does, what is expected of it, the column it belongs in; None: handled.
PLANTED: dict[str, tuple[Callable[[Place], Any], str, str | None]] = {
    "works": (_works, ANY, None),
    "refuses": (lambda place: _sdk_error("give another picture")(), REFUSE, None),
    "notes": (lambda place: ["a note"], NOTE, None),
    "foreign": (lambda place: _raises(KeyError("x"))(), ANY, "foreign"),
    "exits": (lambda place: _raises(SystemExit(3))(), ANY, "foreign"),
    "escapes": (lambda place: _sdk_error("\x1b[31mred")(), ANY, "foreign"),
    "two lines": (lambda place: _sdk_error("one\ntwo")(), ANY, "foreign"),
    "long": (lambda place: _sdk_error("x" * 601)(), ANY, "foreign"),
    "dies": (lambda place: os._exit(3), ANY, "foreign"),
    "hangs": (lambda place: time.sleep(3600), ANY, "hang"),
    "goes through": (lambda place: None, REFUSE, "silent"),
    "says nothing": (lambda place: [], NOTE, "silent"),
    "is wrong": (lambda place: _raises(Silent("black"))(), ANY, "silent"),
    "memory": (lambda place: _takes_memory(), ANY, "memory"),
    "too much memory": (lambda place: bytearray(1 << 40), ANY, "memory"),
    "writes": (lambda place: (place.home / "x").write_text("x"), ANY, "outside"),
    "climbs": (lambda place: (place.out / ".." / "in" / "x").mkdir(), ANY, "outside"),
    "removes": (lambda place: (place.cwd / "precious.txt").unlink(), ANY, "outside"),
    "renames": (lambda place: os.rename(place.cwd / "precious.txt", place.out / "x"), ANY, "outside"),
    "changes inputs": (lambda place: os.truncate(place.assets.photo, 0), ANY, "outside"),
    "leaves a file": (lambda place: (place.temporary / "x").write_text("x"), ANY, "outside"),
    "library": (_library_writes, ANY, "outside"),
    "link": (lambda place: (os.symlink(place.home, place.out / "l"), (place.out / "l" / "x").touch()), ANY, "outside"),
    "program": (lambda place: subprocess.run(["true"], check=True), ANY, "programs"),
    "shell": (lambda place: os.system("true"), ANY, "programs"),
    "connects": (lambda place: socket.create_connection(("127.0.0.1", 9), timeout=1), ANY, "connections"),
    "looks up": (lambda place: socket.getaddrinfo("example.invalid", 80), ANY, "connections"),
}
# Valid inputs, made as the generators make theirs.
UNTOUCHED: dict[str, tuple[Callable[[Place], Any], str, str | None]] = {
    name: (_accepted(function), ANY, None)
    for name, function in {
        "a pack": _pack,
        "an adapter": _adapter,
        "a folder": _exported,
        "an author's file": _author,
        "a checkpoint": _resumes,
    }.items()
}


def maker(name: str) -> Maker:
    """What makes the case of this name."""
    function, expect, _ = (PLANTED | UNTOUCHED)[name]
    return lambda rng, place: Case(name, lambda: function(place), expect)
