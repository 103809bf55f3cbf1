"""Exported folders: manifest and configurations edited with hashes made right, graphs damaged."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from . import honest
from .case import ANY, REFUSE, Case, Place
from .onnx_stand_in import MANIFEST, fix_hashes
from .values import DEEP, NOT_A_NUMBER, mutated, odd_encoding, odd_text, to_json

_CONFIGURATIONS = (
    "scheduler/scheduler_config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
    "unet/config.json",
)
_GRAPHS = ("text_encoder", "kv_projection", "unet", "vae_decoder", "vae_encoder")


def folders(rng: random.Random, place: Place) -> Case:
    """An exported folder, opened and drawn with."""
    folder = place.inputs / "exported"
    shutil.copytree(place.assets.exported, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    kind = rng.choice(("configuration",) * 6 + ("manifest",) * 5 + ("graph",) * 3 + ("table", "place"))
    expect = ANY
    if kind == "configuration":
        what = _configuration(rng, folder)
        fix_hashes(folder, manifest)
        _save(folder, to_json(manifest).encode())
    elif kind == "manifest":
        data, what, expect = _manifest(rng, manifest)
        _save(folder, data)
    elif kind == "graph":
        what, fixed = _graph(rng, folder)
        expect = ANY if fixed else REFUSE
        if fixed:
            fix_hashes(folder, manifest)
            _save(folder, to_json(manifest).encode())
    elif kind == "table":
        what, expect = _table(rng, manifest, folder)
        _save(folder, to_json(manifest).encode())
    else:
        what = _place(rng, folder)
    return _using(rng, place, folder, f"{kind}: {what}", expect)


def _save(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)


def _configuration(rng: random.Random, folder: Path) -> str:
    name = rng.choice(_CONFIGURATIONS)
    file = folder / name
    tree = json.loads(file.read_text())
    kind = rng.choice(("tree",) * 7 + ("text", "number", "deep"))
    if kind == "text":
        data, what = odd_encoding(rng, to_json(tree))
    else:
        if kind == "number":
            key = rng.choice([k for k, v in tree.items() if not isinstance(v, (dict, list))] or list(tree))
            tree[key] = rng.choice(NOT_A_NUMBER)
            what = f"{key} is {tree[key]}"
        elif kind == "deep":
            key = rng.choice(list(tree))
            tree[key], what = DEEP, f"{key} deep"
        else:
            tree, what = mutated(rng, tree, under=_read_keys(name, tree) if rng.random() < 0.6 else ())
        data = to_json(tree).encode("utf-8", "surrogatepass")
    file.write_bytes(data)
    return f"{name}: {what}"


def _read_keys(name: str, tree: dict[str, Any]) -> tuple[str, ...]:
    """What a reader looks at; half of the changes go there."""
    known = {
        "scheduler/scheduler_config.json": (
            *("beta_start", "beta_end", "num_train_timesteps", "beta_schedule", "prediction_type", "steps_offset"),
        ),
        "tokenizer/tokenizer_config.json": ("model_max_length", "pad_token"),
        "unet/config.json": ("sample_size", "in_channels", "block_out_channels"),
        "tokenizer/tokenizer.json": ("added_tokens", "pre_tokenizer", "post_processor", "normalizer", "version"),
    }
    return tuple(key for key in known[name] if key in tree)


def _manifest(rng: random.Random, manifest: dict[str, Any]) -> tuple[bytes, str, str]:
    kind = rng.choice(("tree",) * 7 + ("text", "text", "number", "deep", "concepts", "kind"))
    expect = ANY
    if kind == "tree":
        keys = (
            "kind",
            "base_model",
            "table_size",
            "scaling_factor",
            "guidance_scale",
            "concepts",
            "files",
            "dtype",
            "layers",
        )
        manifest, what = mutated(rng, manifest, under=keys if rng.random() < 0.7 else ())
    elif kind == "number":
        key = rng.choice(("scaling_factor", "guidance_scale"))
        manifest[key], expect = rng.choice(NOT_A_NUMBER), REFUSE
        what = f"{key} {manifest[key]}"
    elif kind == "deep":
        key = rng.choice(list(manifest))
        manifest[key], what = DEEP, f"{key} deep"
    elif kind == "concepts":
        token = rng.choice((odd_text(rng), f"<{odd_text(rng)}>", "<new1>"))
        manifest["concepts"] = [{"token": token, "class": rng.choice(("cat", odd_text(rng)))}]
        what = f"concept {token!r:.50}"
    elif kind == "kind":
        manifest["kind"] = rng.choice(("merged", "Shared", "", None, ["shared"], odd_text(rng)))
        what = f"kind {manifest['kind']!r:.40}"
    else:
        data, what = odd_encoding(rng, to_json(manifest))
        return data, f"text {what}", expect
    return to_json(manifest).encode("utf-8", "surrogatepass"), what, expect


def _graph(rng: random.Random, folder: Path) -> tuple[str, bool]:
    """Damage a graph; returns what was done and whether hashes may be made right."""
    part = rng.choice(_GRAPHS)
    file = folder / part / "model.onnx"
    kind = rng.choice(
        ("flip", "cut", "cut fixed", "external", "external", "renamed", "other", "empty", "gone", "extra input")
    )
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        return f"{part} flip", False
    if kind.startswith("cut"):
        file.write_bytes(data[: rng.randrange(len(data))])
        return f"{part} {kind}", kind == "cut fixed"
    if kind == "other":
        shutil.copy(folder / rng.choice([p for p in _GRAPHS if p != part]) / "model.onnx", file)
        return f"{part} another part's", True
    if kind == "empty":
        file.write_bytes(b"")
        return f"{part} empty", True
    if kind == "gone":
        file.unlink()
        return f"{part} gone", rng.random() < 0.5
    file.write_bytes(_edited_graph(rng, bytes(data), kind, file.parent))
    return f"{part} {kind}", True


def _edited_graph(rng: random.Random, data: bytes, kind: str, folder: Path) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    if kind == "external" and graph.initializer:
        (folder.parent.parent / "secret.bin").write_bytes(os.urandom(1 << 16))
        tensor = max(graph.initializer, key=lambda each: len(each.raw_data))
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        where = rng.choice(
            (
                "../../secret.bin",
                str(folder.parent.parent / "secret.bin"),
                "missing.bin",
                "/dev/zero",
                "../model_index.json",
            )
        )
        for key, value in (("location", where), ("length", str(size)), ("offset", rng.choice(("0", "-1", str(2**62))))):
            tensor.external_data.add(key=key, value=value)
    elif kind == "renamed":
        value = rng.choice((*graph.input, *graph.output))
        old, value.name = value.name, rng.choice(("x", "sample", "", "input_ids"))
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = value.name
    else:
        graph.input.append(onnx.helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, [1]))
    return model.SerializeToString()


def _table(rng: random.Random, manifest: dict[str, Any], folder: Path) -> tuple[str, str]:
    """The table of files: names that lead elsewhere, entries of another form."""
    files = manifest["files"]
    name = rng.choice(list(files))
    kind = rng.choice(("outside", "entry", "gone", "bytes", "extra"))
    if kind == "outside":
        (folder.parent / "secret.bin").write_bytes(b"secret")
        import hashlib

        entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
        files[rng.choice(("../secret.bin", str(folder.parent / "secret.bin")))] = entry
    elif kind == "entry":
        files[name] = rng.choice((None, [], "x", 5, {}, {"bytes": None}, {"sha256": 3, "bytes": files[name]["bytes"]}))
    elif kind == "gone":
        del files[name]
    elif kind == "bytes":
        files[name]["bytes"] = rng.choice((-1, 1.5, "5", None, 2**70, True))
    else:
        files[odd_text(rng)] = {"bytes": 0, "sha256": ""}
    return f"{kind} {name}", ANY


def _place(rng: random.Random, folder: Path) -> str:
    name = rng.choice((MANIFEST, *_CONFIGURATIONS, "unet/model.onnx"))
    file = folder / name
    kind = rng.choice(("fifo", "folder", "gone", "loop", "zero"))
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    return f"{name} {kind}"


@functools.cache
def _calls() -> tuple[str, ...]:
    return ("generate",) * 6 + ("dpm", "img2img", "verify")


def _using(rng: random.Random, place: Place, folder: Path, what: str, expect: str) -> Case:
    way = rng.choice(_calls())

    def run() -> list[str]:
        if way == "verify":
            from .commands import call

            return honest.printed(*call(["verify", str(folder)]))
        from sdk.deploy import OnnxPersonalizer

        opened = OnnxPersonalizer.from_pretrained(folder)
        concepts = opened.model.concepts
        prompt = " and ".join(f"a {c.token} {c.noun}" for c in concepts) or "a cat on the beach"
        common = {"seed": 1, "num_inference_steps": 2}
        if way == "img2img":
            return honest.drawn(opened.img2img(place.assets.photo, prompt, **common), 1)
        return honest.drawn(opened.generate(prompt, scheduler="dpm" if way == "dpm" else "ddim", **common), 1)

    return Case(f"{way}: {what}", run, expect if way != "verify" else ANY)
