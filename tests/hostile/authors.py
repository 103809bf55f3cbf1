"""Files of the methods' authors: nested tables that are none, hostile tokens, and pickles that would run something."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from . import honest, tensor_files
from .case import ANY, REFUSE, Case, Place
from .values import odd_python, odd_text

_STEM = "pytorch_custom_diffusion_weights"


class _Runs:
    """Unpickled, it would call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def files(rng: random.Random, place: Place) -> Case:
    """An author's file or folder, imported and used as a pack."""
    maker = rng.choice(
        (_table,) * 6 + (_code,) * 3 + (_damaged,) * 2 + (_folder,) * 4 + (_safetensors,) * 2 + (_odd_call,)
    )
    path, what, expect, allow, nouns = maker(rng, place)

    def run() -> list[str]:
        from sdk.exports import import_pack

        return honest.pack(import_pack(path, nouns, place.assets.engine, allow_pickle=allow), place, rng)

    return Case(f"{maker.__name__.strip('_')}: {what}", run, expect)


Made = tuple[Any, str, str, bool, Any]


def valid(place: Place) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """K and V by parameter name, and rows by token, of the valid pack."""
    pack = place.assets.loaded
    weights = {f"{n}.to_{w}.weight": m.float() for n, p in pack.key_value.items() for w, m in zip("kv", p, strict=True)}
    return weights, {c.token: row.float() for c, row in zip(pack.concepts, pack.embeddings, strict=True)}


def _table(rng: random.Random, place: Place) -> Made:
    """``delta.bin`` or ``delta_epoch.ckpt`` with something else in it."""
    weights, rows = valid(place)
    nested: dict[str, Any] = dict(weights)
    tokens: Any = dict(rows)
    name = rng.choice(list(nested))
    expect = ANY
    kind = rng.choice(
        ("number", "tensor", "tensor", "value", "value", "token", "token", "factors", "gone", "rows", "key", "top")
    )
    what = kind
    if kind == "number":
        target = rng.choice((nested, tokens))
        name = rng.choice(list(target))
        changed = target[name].clone()
        changed.view(-1)[rng.randrange(changed.numel())] = rng.choice((float("nan"), float("inf"), 1e30))
        target[name], expect = changed, REFUSE
    elif kind == "tensor":
        nested[name], what = _odd_tensor(rng, weights[name])
    elif kind == "value":
        value = _storable(odd_python(rng))
        target = rng.choice((nested, tokens))
        name = rng.choice(list(target))
        target[name], what = value, f"{name[-20:]} is {value!r:.60}"
    elif kind == "token":
        token = rng.choice((odd_text(rng), f"<{odd_text(rng)}>", 5, None, b"<x>", ("a",)))
        tokens[token] = tokens.pop(rng.choice(list(tokens)))
        what = f"token {token!r:.60}"
    elif kind == "factors":
        short = rng.choice(
            ({"u": torch.ones(16, 2), "v": torch.ones(3, 32)}, {"u": torch.ones(16, 2)}, {"u": 1, "v": 2}, {})
        )
        nested[name] = rng.choice(
            (short, {"u": torch.ones(16), "v": torch.ones(32)}, {"u": torch.ones(16, 1), "v": "x"})
        )
    elif kind == "gone":
        del nested[name]
    elif kind == "rows":
        other = rng.choice(
            (torch.ones(31), torch.ones(2, 16), torch.ones(1, 32), torch.ones(()), torch.ones(0), torch.ones(33))
        )
        tokens[rng.choice(list(tokens))] = other
        what = f"row {list(other.shape)}"
    elif kind == "key":
        nested[
            rng.choice(
                (
                    5,
                    None,
                    b"x",
                    odd_text(rng),
                    "model.diffusion_model.input_blocks.99.1.transformer_blocks.0.attn2.to_k.weight",
                    "x.attn2.to_k.weight",
                )
            )
        ] = nested.pop(name)
    content: Any = {"unet": nested, "modifier_token": tokens}
    if kind == "top":
        stacked: Any = torch.stack(list(rows.values()))
        content = rng.choice(
            (
                *(
                    [],
                    None,
                    5,
                    "text",
                    {},
                    {"unet": None, "modifier_token": tokens},
                    {"unet": nested, "modifier_token": 3},
                ),
                *({"unet": [], "modifier_token": {}}, {"state_dict": 5}, {"state_dict": nested | {"embed": 3}}, nested),
                *(
                    {"state_dict": nested | {"embed": stacked}},
                    {"state_dict": nested | {"embed": stacked[0]}},
                    [content],
                ),
                *(
                    {"state_dict": nested | {"embed": [1, 2]}},
                    {"unet": nested},
                    {"unet": {"unet": nested}, "modifier_token": {}},
                ),
            )
        )
        what = f"top {str(type(content))} {list(content)[:2] if isinstance(content, dict) else ''}"
    path = place.inputs / rng.choice(("delta.bin", "delta_epoch=4.ckpt", "delta.pt", "delta"))
    torch.save(content, path)
    nouns = rng.choice((["cat", "dog"],) * 6 + (["cat"], []))
    return path, what, expect, True, nouns


def _odd_tensor(rng: random.Random, valid: torch.Tensor) -> tuple[Any, str]:
    name, made = rng.choice(
        (
            ("transposed", lambda: valid.T),
            ("flat", lambda: valid.flatten()),
            ("number", lambda: torch.tensor(1.0)),
            ("empty", lambda: torch.empty(0, 32)),
            ("integers", lambda: valid.to(torch.int64)),
            ("booleans", lambda: valid > 0),
            ("complex", lambda: valid.to(torch.complex64)),
            ("bfloat16", lambda: valid.bfloat16()),
            ("sparse", lambda: valid.to_sparse()),
            ("expanded", lambda: torch.zeros(1).expand(200_000, 200_000)),
            ("expanded to size", lambda: torch.zeros(1).expand(valid.shape)),
            ("nowhere", lambda: valid.to("meta")),
            ("larger than float16", lambda: valid + 1e6),
            ("parameter", lambda: torch.nn.Parameter(valid)),
            ("strided", lambda: torch.zeros(4).as_strided(valid.shape, (0, 0))),
            ("batched", lambda: valid[None]),
            ("float8", lambda: valid.to(torch.float8_e4m3fn)),
        )
    )
    return made(), name


def _storable(value: Any) -> Any:
    """What a pickle can hold."""
    try:
        pickle.dumps(value)
    except Exception:
        return repr(value)
    return value


def _code(rng: random.Random, place: Place) -> Made:
    """A pickle that would run something if it could; it must be refused, and nothing may have happened."""
    canary = str(place.inputs / "canary")
    payload = rng.choice(
        (
            _Runs(os.system, f"touch {canary}"),
            _Runs(open, canary, "w"),
            _Runs(eval, f"open({canary!r}, 'w')"),
            _Runs(os.mkdir, canary),
            _Runs(exec, "import socket; socket.create_connection(('127.0.0.1', 9))"),
            _Runs(os.remove, str(place.cwd / "precious.txt")),
            _Runs(print, "ran"),
            _Runs(__import__, "this"),
        )
    )
    weights, rows = valid(place)
    content = rng.choice(
        (payload, {"unet": weights, "modifier_token": rows, "x": payload}, {"unet": payload, "modifier_token": rows})
    )
    allow = rng.random() < 0.8
    if rng.random() < 0.7:
        path = place.inputs / rng.choice(("delta.bin", "a.ckpt", "a.pt", "a.pth", "a"))
    else:  # as one of a folder's
        folder = place.inputs / "folder"
        folder.mkdir()
        path = folder / rng.choice((f"{_STEM}.bin", "new1.bin"))
        if path.stem != _STEM:
            torch.save(_diffusers_names(weights), folder / f"{_STEM}.bin")
    if rng.random() < 0.5:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=rng.choice((0, 2, 4, 5))))
    whole = path.parent if path.parent != place.inputs else path
    return whole, f"{payload.call[0].__name__} allow={allow}", REFUSE, allow, ["cat", "dog"]


def _diffusers_names(weights: dict[str, Any]) -> dict[str, Any]:
    return {
        k.replace(".to_k.weight", ".processor.to_k_custom_diffusion.weight").replace(
            ".to_v.weight", ".processor.to_v_custom_diffusion.weight"
        ): v
        for k, v in weights.items()
    }


def _damaged(rng: random.Random, place: Place) -> Made:
    """A valid file, cut or flipped, a zip or a pickle of something else."""
    weights, rows = valid(place)
    buffer = io.BytesIO()
    torch.save({"unet": weights, "modifier_token": rows}, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    data = bytearray(buffer.getvalue())
    kind = rng.choice(("cut", "flip", "flip", "empty", "zip", "bomb", "text", "deep", "tail"))
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "flip":
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), rng.choice((200, 4000, 10**9))))] ^= 1 << rng.randrange(8)
    elif kind in ("zip", "bomb"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}." if kind == "zip" else bytes(200 << 20))
            archive.writestr("archive/version", "3")
        data = bytearray(buffer.getvalue())
    elif kind == "deep":
        data = bytearray(b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b".")
    elif kind == "tail":
        data += b"tail"
    else:
        data = bytearray(b"" if kind == "empty" else b"hello")
    path = place.inputs / "delta.bin"
    path.write_bytes(data)
    return path, kind, ANY, True, ["cat", "dog"]


def _folder(rng: random.Random, place: Place) -> Made:
    """diffusers' layout: weights and one file a token, some of them odd."""
    from safetensors.torch import save_file

    weights, rows = valid(place)
    folder = place.inputs / "layout"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in _diffusers_names(weights).items()}, folder / f"{_STEM}.safetensors")
    tokens = list(rows)
    kind = rng.choice(
        ("token", "token", "token", "row", "twice", "clash", "nothing", "bin", "mix", "fifo", "folder", "number")
    )
    what, expect = kind, ANY
    names: list[str] = list(tokens)
    if kind == "token":
        names[0] = rng.choice((odd_text(rng), f"<{odd_text(rng)}>", f"<{odd_text(rng)}>", "<../../evil>"))
        what = f"token {names[0]!r:.60}"
    elif kind == "clash":
        names = rng.choice(
            (["<new1>", "<NEW1>"], ["<CON>", "<nul>"], ["<unet>", "<personalizer>"], ["<reference>", f"<{_STEM}>"])
        )
        what = f"tokens {names}"
    for index, (name, row) in enumerate(zip(names, rows.values(), strict=True)):
        own = row.clone()
        if kind == "row" and index == 0:
            own = rng.choice((own[:31], own[None], own.long(), own[:0], own.double()))
        if kind == "number" and index == 0:
            own[3], expect = float("nan"), REFUSE
        data = tensor_files.packed({name: (_KINDS[own.dtype], list(own.shape), own.numpy().tobytes())})
        (folder / f"{index}.safetensors").write_bytes(data)
    _beside(rng, kind, folder, rows)
    return folder, what, expect, rng.random() < 0.5, ["cat", "dog"]


_KINDS = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64"}


def _beside(rng: random.Random, kind: str, folder: Path, rows: dict[str, torch.Tensor]) -> None:
    """What else lies in the folder."""
    if kind == "twice":
        (folder / "again.safetensors").write_bytes((folder / "0.safetensors").read_bytes())
    elif kind == "nothing":
        (folder / "0.safetensors").unlink()
    elif kind == "bin":
        torch.save({"<new1>": rng.choice((rows["<new1>"], 5, None, [1], "x"))}, folder / "0.bin")
    elif kind == "mix":
        (folder / f"{_STEM}.bin").write_bytes(b"x")
        (folder / "other.safetensors").write_bytes(b"x")
    elif kind == "fifo":
        os.mkfifo(folder / "z.safetensors")
    elif kind == "folder":
        (folder / "z.bin").mkdir()


def _safetensors(rng: random.Random, place: Place) -> Made:
    data, what, planted = tensor_files.hostile(rng, place.assets.files[f"{_STEM}.safetensors"])
    weights = place.inputs / "layout" / f"{_STEM}.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(data)
    for name in ("new1.safetensors", "new2.safetensors"):
        (weights.parent / name).write_bytes(place.assets.files[name])
    return weights.parent, what, REFUSE if planted else ANY, False, ["cat", "dog"]


def _odd_call(rng: random.Random, place: Place) -> Made:
    """Arguments that are none."""
    path = rng.choice((odd_python(rng), place.inputs, place.inputs / "none.bin", "/dev/zero", place.assets.photo, ""))
    nouns = rng.choice((["cat", "dog"], "cat", None, odd_python(rng), [odd_python(rng)]))
    return path, f"{path!r:.60} {nouns!r:.60}", REFUSE, rng.random() < 0.5, nouns
