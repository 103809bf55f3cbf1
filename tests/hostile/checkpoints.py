"""Checkpoints of interrupted fits that were edited, cut, or belong to something else."""

from __future__ import annotations

import json
import random
import shutil
import threading
from pathlib import Path
from typing import Any

from . import honest, tensor_files
from .case import ANY, NOTE, REFUSE, Case, Place, Silent
from .values import odd_json, odd_text

CHECKPOINT = "checkpoint.safetensors"


def resumed(rng: random.Random, place: Place) -> Case:
    """A fit goes on from a checkpoint; one that does not fit is refused and left as it is."""
    shutil.copytree(place.assets.cache, place.cache, dirs_exist_ok=True)
    work = place.out / "pack.partial"
    shutil.copytree(place.assets.partial, work)
    file = work / CHECKPOINT
    data = file.read_bytes()
    kind = rng.choice(
        ("step",) * 3
        + ("about",) * 3
        + ("tensors",) * 4
        + ("bytes",) * 2
        + ("settings", "settings", "metrics", "place")
    )
    expect, changes = ANY, {}
    if kind == "step":
        step = rng.choice(("99", "-3", "1.5", "x", "", "nan", "9" * 30, "4", "0x1", "1 ", "-1"))
        data, what = _about(data, "step", step), f"step {step}"
        expect = ANY if step == "1 " else REFUSE
    elif kind == "about":
        header, _ = tensor_files.parse(data)
        name = rng.choice((*sorted(header["__metadata__"]), "best", odd_text(rng)))
        value = rng.choice(
            (odd_text(rng), json.dumps(rng.choice(([], [1], [1, 2], {}, None, "x", [None] * 3, ["a", "b", "c"]))))
        )
        data, what = _about(data, name, value), f"{name} {value!r:.40}"
        expect = NOTE if name == "identity" else ANY
    elif kind == "tensors":
        data, what, planted = _tensors(rng, data)
        expect = REFUSE if planted else ANY
    elif kind == "bytes":
        cut = rng.choice((0, 4, 8, 100, rng.randrange(len(data)), len(data) - 1))
        data, what, expect = data[:cut], f"cut at {cut}", REFUSE
    elif kind == "settings":  # another fit than the one that was interrupted
        changes = rng.choice(({"learning_rate": 5e-3}, {"batch_size": 2}, {"flip": 0.0}, {"target_pool": 2}))
        what, expect = f"settings {changes}", NOTE
    elif kind == "metrics":
        metrics = work / "metrics.jsonl"
        what = rng.choice(("gone", "folder", "text", "short"))
        metrics.unlink()
        if what == "folder":
            metrics.mkdir()
        elif what != "gone":
            metrics.write_bytes(b"x" * (3 if what == "short" else 10_000))
    else:
        what = _place(rng, work, place)
    if kind in ("step", "about", "tensors") and rng.random() < 0.7:  # by someone who knows the format
        data = _with_its_hash(data)
    if kind != "place":
        file.write_bytes(data)
    before = {path: path.read_bytes() for path in (file,) if path.is_file()}

    def run() -> list[str]:
        from sdk.errors import SdkError
        from sdk.runtime import Cancelled

        assets = place.assets
        stop = threading.Event()
        try:
            assets.engine.fit(
                assets.picture,
                ["cat", "dog"],
                config=assets.config.with_changes(**changes),
                seed=3,
                output_dir=place.out / "pack",
                resume=True,
                callback=lambda report: stop.set(),
                cancel=stop,
            )
        except Cancelled:
            _finite(file)  # it went on from there; what it keeps must be a state
        except SdkError:
            honest.untouched(before)
            raise
        finally:
            assets.engine.unload_pack()
        return []

    return Case(f"{kind}: {what}", run, expect)


def _with_its_hash(data: bytes) -> bytes:
    """The same with a hash that fits, where tensors can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from sdk.fit.kept.checkpoint import _hash

    try:
        header, body = tensor_files.parse(data)
        about = {name: text for name, text in header["__metadata__"].items() if name != "hash"}
        header["__metadata__"] = about | {"hash": _hash(load(data), about)}
        return tensor_files.build(header, body)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError):  # no checkpoint any more: no hash
        return data


def _about(data: bytes, name: str, value: str) -> bytes:
    header, body = tensor_files.parse(data)
    header["__metadata__"][name] = value
    return tensor_files.build(header, body)


def _tensors(rng: random.Random, data: bytes) -> tuple[bytes, str, bool]:
    """Change one tensor of the state."""
    header, body = tensor_files.parse(data)
    about = header.pop("__metadata__")
    tensors = tensor_files.arrays(data)
    name = rng.choice(list(tensors))
    dtype, shape, values = tensors[name]
    kind = rng.choice(("number", "number", "gone", "shape", "type", "header", "renamed", "empty"))
    planted = False
    if kind == "number" and dtype == "F32" and values:
        import struct

        changed = bytearray(values)
        changed[:4] = struct.pack("<f", rng.choice((float("nan"), float("inf"))))
        tensors[name], planted = (dtype, shape, bytes(changed)), True
    elif kind == "gone":
        del tensors[name]
        planted = True  # without it there is no state to go on from
    elif kind == "shape":
        tensors[name] = (dtype, [len(values) // 4 if dtype == "F32" else len(values) // 8], values)
    elif kind == "type" and dtype == "F32":
        tensors[name] = ("I32", shape, values)
    elif kind == "empty":
        tensors[name] = (dtype, [0], b"")
    elif kind == "renamed":
        tensors[odd_text(rng)] = tensors.pop(name)
    elif kind == "header":
        header["__metadata__"] = rng.choice((odd_json(rng), {}, None))
        return tensor_files.build(header, body), "metadata gone", False
    return tensor_files.packed(tensors, about), f"{kind} {name[-40:]}", planted


def _place(rng: random.Random, work: Path, place: Place) -> str:
    """The folder of unfinished work is none."""
    kind = rng.choice(("file", "link", "checkpoint folder", "dangling", "fifo"))
    if kind == "checkpoint folder":
        (work / CHECKPOINT).unlink()
        (work / CHECKPOINT).mkdir()
    elif kind == "fifo":
        import os

        (work / CHECKPOINT).unlink()
        os.mkfifo(work / CHECKPOINT)
    else:
        elsewhere = place.out / "elsewhere"
        work.rename(elsewhere)
        if kind == "file":
            work.write_bytes(b"x")
        else:
            work.symlink_to(elsewhere if kind == "link" else place.out / "nowhere")
    return kind


def _finite(file: Path) -> None:
    from safetensors.torch import load_file

    if not file.is_file():
        return
    bad: list[Any] = [name for name, t in load_file(file).items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise Silent(f"went on with {bad[0]} that is not finite")
