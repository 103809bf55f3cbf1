"""Adapters: arrays and the JSON inside, with the digest made right again."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np

from . import honest
from .case import ANY, REFUSE, Case, Place
from .values import DEEP, NOT_A_NUMBER, mutated, odd_encoding, odd_text, to_json

ROWS, ABOUT = "token_rows", "personalizer.json"


def adapters(rng: random.Random, place: Place) -> Case:
    """An ``.onnx_adapter`` that is added to an exported model and drawn with."""
    path = place.inputs / rng.choice(("mine.onnx_adapter",) * 5 + ("mine.bin", "mine"))
    expect = ANY
    kind = rng.choice(("about",) * 4 + ("arrays",) * 5 + ("bytes",) * 3)
    if kind == "bytes":
        data = bytearray(place.assets.adapter.read_bytes())
        how = rng.choice(("cut", "flip", "flip", "flip", "zero", "empty", "text", "tail"))
        if how == "cut":
            del data[rng.randrange(len(data)) :]
        elif how == "flip":
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == "zero":
            data[: rng.randrange(len(data))] = b""
        elif how == "tail":
            data += b"tail"
        else:
            data = bytearray(b"" if how == "empty" else b"hello")
        path.write_bytes(data)
        what = how
    else:
        values, about = read(place)
        if kind == "arrays":
            what, expect = _arrays(rng, values)
        else:
            what = ""
        about["sha256"] = digest(values)
        text, what = _about(rng, about, what) if kind == "about" else (to_json(about).encode(), what)
        write(path, values, text)
    return _using(rng, place, path, f"{kind}: {what}", expect)


def read(place: Place) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and JSON of the valid adapter."""
    import onnxruntime

    opened = onnxruntime.AdapterFormat.read_adapter(str(place.assets.adapter))
    values = {name: np.array(value.numpy()) for name, value in opened.get_parameters().items()}
    return values, json.loads(bytes(values.pop(ABOUT)))


def write(path: Any, values: dict[str, np.ndarray], about: bytes | None) -> None:
    """An adapter of these arrays."""
    import onnxruntime

    stored = dict(values)
    if about is not None:
        stored[ABOUT] = np.frombuffer(about or b" ", np.uint8)
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    made = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v)) for name, v in stored.items()}
    adapter.set_parameters(made)
    adapter.export_adapter(str(path))


def digest(values: dict[str, np.ndarray]) -> str:
    """The hash of names, types, shapes and contents that an adapter carries."""
    whole = hashlib.sha256()
    for name in sorted(values):
        value = np.ascontiguousarray(values[name])
        whole.update(f"{name} {value.dtype} {value.shape}".encode())
        whole.update(value.tobytes())
    return whole.hexdigest()


def _arrays(rng: random.Random, values: dict[str, np.ndarray]) -> tuple[str, str]:
    name = rng.choice((ROWS, *values))
    value = values[name]
    kind = rng.choice(("number", "number", "type", "shape", "shape", "gone", "extra", "renamed", "large", "rows"))
    if kind == "number":
        changed = value.copy()
        changed.flat[rng.randrange(changed.size // 8)] = rng.choice((np.nan, np.inf, -np.inf))
        values[name] = changed
        return f"not finite in {name[-30:]}", REFUSE
    if kind == "type":
        new = rng.choice((np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_))
        values[name] = value.astype(new)
        return f"{np.dtype(new)} in {name[-30:]}", ANY
    if kind == "shape":
        flat = value.flatten()
        values[name] = rng.choice(
            (flat, value.T, value[None], value[:1], value[:, :1], value[:-1], flat[:1].reshape(()), value[:, :-1])
        )
        return f"shape {values[name].shape} of {name[-30:]}", ANY
    if kind == "rows":
        values[ROWS] = np.zeros(rng.choice(((1, 32), (9, 32), (8, 31), (100, 32), (8, 32, 1))), value.dtype)
        return f"rows {values[ROWS].shape}", ANY
    if kind == "large":
        values[name] = np.full_like(value, rng.choice((65504, -65504, 6e-8)))
        return f"largest values in {name[-30:]}", ANY
    if kind == "extra":
        values[odd_text(rng).encode("utf-8", "replace").decode() or "x"] = value
        return "an extra array", ANY
    del values[name]
    if kind == "renamed":
        values[odd_text(rng).encode("utf-8", "replace").decode() or "x"] = value
    return f"{kind} {name[-30:]}", ANY


def _about(rng: random.Random, about: dict[str, Any], what: str) -> tuple[bytes, str]:
    kind = rng.choice(("tree",) * 6 + ("text", "number", "deep", "token", "concepts"))
    if kind == "tree":
        changed, what = mutated(rng, about)
        return to_json(changed).encode(), what
    if kind == "number":
        layer = rng.choice(list(about["base_model"]["fingerprint"]))
        about["base_model"]["fingerprint"][layer] = [rng.choice(NOT_A_NUMBER)] * 2
        return to_json(about).encode(), "fingerprint not a number"
    if kind == "deep":
        about[rng.choice(list(about))] = DEEP
        return to_json(about).encode(), "deep"
    if kind == "token":
        token = rng.choice((odd_text(rng), f"<{odd_text(rng)}>"))
        about["concepts"][0]["token"] = token
        return to_json(about).encode(), f"token {token!r:.60}"
    if kind == "concepts":
        about["concepts"] = [{"token": f"<n{i}>", "class": "cat"} for i in range(rng.choice((0, 1, 8, 9, 100)))]
        return to_json(about).encode(), f"{len(about['concepts'])} concepts"
    data, how = odd_encoding(rng, to_json(about))
    return data, f"text {how}"


def _using(rng: random.Random, place: Place, path: Any, what: str, expect: str) -> Case:
    if rng.random() < 0.1:

        def command() -> list[str]:
            from .commands import call

            return honest.printed(*call(["verify", str(path)]))

        return Case(f"verify: {what}", command)

    def run() -> list[str]:
        runtime = place.assets.runtime
        try:
            runtime.add_pack("hostile", path)
            concepts = runtime.packs["hostile"].concepts
            prompt = " and ".join(f"a {c.token} {c.noun}" for c in concepts) or "a cat"
            result = runtime.generate(prompt, concepts="hostile", seed=1, num_inference_steps=2, guidance_scale=2)
            return honest.drawn(result, 1, (32, 32))
        finally:
            runtime.remove_pack("hostile")

    return Case(what, run, expect)
