"""safetensors files: values, shapes, names and headers that a reader may not expect."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from contextlib import suppress
from typing import Any

import numpy as np

from .values import Literal, mutated, odd_json, odd_text, to_json

_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "I8": 1, "F8_E4M3": 1}


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values of a whole file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def build(header: Any, body: bytes) -> bytes:
    """A file of a header, which may hold :class:`Literal`, and values."""
    text = (header if isinstance(header, str) else to_json(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def arrays(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes by name."""
    header, body = parse(data)
    header.pop("__metadata__", None)
    return {
        name: (about["dtype"], about["shape"], body[slice(*about["data_offsets"])]) for name, about in header.items()
    }


def packed(tensors: dict[str, tuple[str, list[int], bytes]], metadata: Any = None) -> bytes:
    """The file of these tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return build(header, body)


def renamed(data: bytes, old: str, new: str) -> bytes:
    """The file with one tensor of another name."""
    return packed({new if name == old else name: value for name, value in arrays(data).items()})


def hostile(rng: random.Random, data: bytes) -> tuple[bytes, str, bool]:
    """A changed file, what was changed, and whether a value that is not finite was planted in it."""
    kind = rng.choice(
        ("number",) * 3 + ("type", "shape", "shape", "names", "names", "header", "header", "bytes", "swap")
    )
    tensors = arrays(data)
    name = rng.choice(list(tensors))
    dtype, shape, values = tensors[name]
    planted = False
    if kind == "number":
        numbers = np.frombuffer(values, np.float16).copy()
        value = rng.choice((np.nan, np.inf, -np.inf))
        numbers[rng.randrange(len(numbers)) if rng.random() < 0.7 else slice(None)] = value
        tensors[name] = ("F16", shape, numbers.tobytes())
        what, planted = f"{value} in {name[-30:]}", True
        if rng.random() < 0.2:  # finite as it is written, infinite as it is kept
            large = np.frombuffer(values, np.float16).astype(np.float32)
            large[0] = rng.choice((1e6, -1e30))
            tensors[name], what = ("F32", shape, large.tobytes()), "larger than float16"
    elif kind == "type":
        new = rng.choice(list(_SIZES))
        count = len(values) // 2
        tensors[name] = (new, shape, rng.choice((values * 8, bytes(count * 8)))[: count * _SIZES[new]])
        what = f"type {new}"
        planted = new in ("F16", "BF16", "F32", "F64") and _wild(tensors[name])
    elif kind == "shape":
        count = len(values) // 2
        new_shape = rng.choice(
            ([count], [1, count], [count, 1], [1, *shape], [*shape, 1], shape[::-1], [0], [0, count], [])
        )
        length = int(np.prod(new_shape, dtype=np.int64)) * 2
        tensors[name] = (dtype, new_shape, (values * 2)[:length])
        what = f"shape {new_shape} instead of {shape}"
    elif kind == "names":
        what = _names(rng, tensors, name)
    elif kind == "swap":
        other = rng.choice(list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
        what = "exchanged"
    elif kind == "header":
        made, what = _header(rng, data)
        return made, what, False
    else:
        made, what = _bytes(rng, data)
        return made, what, False
    return packed(tensors), what, planted


def _names(rng: random.Random, tensors: dict[str, Any], name: str) -> str:
    how = rng.choice(("gone", "extra", "renamed", "all gone", "copy", "only keys"))
    if how == "gone":
        del tensors[name]
    elif how == "extra":
        tensors[odd_text(rng)] = tensors[name]
    elif how == "renamed":
        tensors[odd_text(rng)] = tensors.pop(name)
    elif how == "all gone":
        tensors.clear()
    elif how == "copy":
        tensors[name.replace("down_blocks.0", rng.choice(("down_blocks.9", "x", "up_blocks.1")))] = tensors[name]
    else:
        for each in [n for n in tensors if "to_v" in n]:
            del tensors[each]
    return f"{how} {name[-30:]}"


def _header(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    header, body = parse(data)
    name = rng.choice([n for n in header if n != "__metadata__"])
    how = rng.choice(("tree", "tree", "tree", "offsets", "huge", "metadata", "text", "twice"))
    if how == "tree":
        changed, what = mutated(rng, header)
        return build(changed, body), f"header {what}"
    if how == "offsets":
        size = len(body)
        pair = rng.choice(
            ([0, size], [size, 0], [-2, 2], [0, 2**63], [2**64, 2**64 + 2], [1, 3], [0, 0], [0], [0, 2, 4], "x")
        )
        header[name]["data_offsets"] = pair
        return build(header, body), f"offsets {pair}"
    if how == "huge":
        shape = rng.choice(([2**40, 2**40], [2**63], [2**32, 2**32, 0], [10**6, 10**6], [-1, -4], [0.5]))
        header[name]["shape"] = shape
        return build(header, body), f"stated shape {shape}"
    if how == "metadata":
        header["__metadata__"] = odd_json(rng)
        return build(header, body), f"metadata {header['__metadata__']!r:.60}"
    if how == "text":
        text = rng.choice(("", "{}", "[]", "null", "{", '{"a":1}', "[" * 9999, " " * 99999 + "{}", Literal("\0\1")))
        return build(str(text), body), f"header text {text[:20]!r}"
    whole = json.dumps(header)
    return build(whole[:-1] + ", " + whole[1:], body), "every key twice"


def _bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    how = rng.choice(("cut", "cut", "length", "length", "tail", "flip", "empty", "pickle", "short"))
    if how == "cut":
        return data[: rng.randrange(len(data))], how
    if how == "length":
        size = rng.choice((0, 1, 2**30, 2**63, 2**64 - 1, len(data), 10**8 + 1))
        return struct.pack("<Q", size) + data[8:], f"header of {size} bytes"
    if how == "tail":
        return data + b"\0" * rng.randint(1, 99), how
    if how == "flip":
        changed = bytearray(data)
        changed[rng.randrange(min(len(data), 400))] ^= 1 << rng.randrange(8)
        return bytes(changed), how
    return {"empty": b"", "pickle": b"\x80\x04cos\nsystem\n(S'touch x'\ntR.", "short": b"\1\2\3"}[how], how


def _wild(tensor: tuple[str, list[int], bytes]) -> bool:
    """Whether values read as another type are not finite, or not in float16."""
    dtype, _, data = tensor
    if dtype == "BF16":
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])
    with np.errstate(over="ignore"):
        return not np.isfinite(values.astype(np.float16)).all()


def fix_content_hash(tree: dict[str, Any], files: dict[str, bytes]) -> None:
    """Enter the hash of tokens, embeddings and weights, where the files can be read at all."""
    from safetensors.torch import load

    with suppress(Exception):
        digest = hashlib.sha256()
        rows = b""
        for concept in tree["concepts"]:
            digest.update(f"{concept['token']}\0{concept['class']}\0".encode())
            rows += (
                load(files[f"{concept['token'].strip('<>')}.safetensors"])[concept["token"]].half().numpy().tobytes()
            )
        digest.update(rows)
        weights = load(files["pytorch_custom_diffusion_weights.safetensors"])
        layers = sorted({name.split(".processor.")[0] for name in weights})
        for layer in layers:
            digest.update(layer.encode())
            for which in "kv":
                weight = weights[f"{layer}.processor.to_{which}_custom_diffusion.weight"]
                digest.update(weight.half().contiguous().numpy().tobytes())
        if "unet.safetensors" in files:
            for name, weight in sorted(load(files["unet.safetensors"]).items()):
                digest.update(name.encode())
                digest.update(weight.half().contiguous().numpy().tobytes())
        tree["content_sha256"] = digest.hexdigest()
