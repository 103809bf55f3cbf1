"""Packs: manifests and files that were edited, with hashes made right again so that deeper checks are reached."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from . import honest, picture_bytes, tensor_files
from .case import ANY, REFUSE, Case, Place
from .values import DEEP, NOT_A_NUMBER, mutated, odd_encoding, odd_name, odd_text, to_json

MANIFEST = "personalizer.json"
WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"
_OPTIONS = {
    "verify": [],
    "generate": ["--prompt", "a <new1> cat", "--steps", "1", "--num-images", "1"],
    "export": ["--format", "lora"],
    "merge": [],
}
_COMMANDS = ("verify", "verify", "generate", "export", "merge")


def manifests(rng: random.Random, place: Place) -> Case:
    """The manifest, as a tree and as text."""
    files = dict(place.assets.files)
    tree = json.loads(files[MANIFEST])
    expect = ANY
    kind = rng.choice(("tree",) * 10 + ("text",) * 3 + ("number", "token", "token", "base", "deep", "version"))
    if kind == "tree":
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree, what = mutated(rng, tree)
            if not isinstance(tree, dict):
                break
    elif kind == "number":
        layer = rng.choice(list(tree["base_model"]["fingerprint"]))
        value = rng.choice(NOT_A_NUMBER)
        tree["base_model"]["fingerprint"][layer] = rng.choice(([value, value], [2.0, value]))
        what, expect = f"fingerprint {value}", REFUSE
    elif kind == "token":
        what, files = _renamed(rng, tree, files)
    elif kind == "base":
        tree["base_model"]["name"] = rng.choice((odd_text(rng), "someone/some-model", "http://127.0.0.1:9/model"))
        what = f"base name {tree['base_model']['name']!r:.60}"
    elif kind == "deep":
        tree[rng.choice(list(tree))], what = DEEP, "deep nesting"
    elif kind == "version":
        tree["format_version"] = rng.choice((0, 2, -1, "1", 1.0, True, None, [1], 10**30, 1.5))
        what = f"version {tree['format_version']!r:.40}"
    else:
        what = "text"
    text = to_json(tree)
    files[MANIFEST] = text.encode("utf-8", "surrogatepass")
    if kind == "text":
        files[MANIFEST], what = odd_encoding(rng, text)
    folder = _write(files, place)
    return _reading(rng, place, folder, f"manifest {what}", expect)


def contents(rng: random.Random, place: Place) -> Case:
    """The files beside the manifest; hashes follow, mostly."""
    files = dict(place.assets.files)
    tree = json.loads(files[MANIFEST])
    expect = ANY
    kind = rng.choice(("tensors",) * 5 + ("reference",) * 2 + ("table", "table", "place", "extra"))
    planted = False
    if kind == "tensors":
        name = rng.choice((WEIGHTS, WEIGHTS, "new1.safetensors"))
        files[name], what, planted = tensor_files.hostile(rng, files[name])
        what = f"{name}: {what}"
    elif kind == "reference":
        files["reference.png"], what = picture_bytes.hostile(rng)
    elif kind == "extra":
        name = rng.choice(("unet.safetensors", "new3.safetensors", "x.safetensors", "attention.png"))
        files[name], what, planted = tensor_files.hostile(rng, _other_weights(rng, files))
        planted = planted and name == "unet.safetensors"
    else:
        what = ""
    fix_hashes(tree, files)
    if rng.random() < 0.85:
        tensor_files.fix_content_hash(tree, files)
    if kind == "table":
        what = _table(rng, tree, place)
        expect = REFUSE if "outside" in what else ANY
    files[MANIFEST] = to_json(tree).encode()
    folder = _write(files, place)
    if kind == "place":
        what = _place(rng, folder)
        expect = REFUSE if "fifo" in what or "folder" in what else ANY
    return _reading(rng, place, folder, f"{kind}: {what}", REFUSE if planted else expect)


def fix_hashes(tree: dict[str, Any], files: dict[str, bytes]) -> None:
    """Enter the hashes of the files as they are now."""
    tree["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != MANIFEST}


def _write(files: dict[str, bytes], place: Place) -> Path:
    folder = place.inputs / "pack"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _reading(rng: random.Random, place: Place, folder: Path, what: str, expect: str) -> Case:
    """Hand a pack over: to the class, an engine or the command line.

    A command without ``--model`` goes by the pack's own word for its base model, which nobody vouches for.
    """
    way = rng.choice(_COMMANDS if "base name" in what else ("class",) * 10 + ("engine", *_COMMANDS))
    model = ["--model", str(place.assets.model)] if way == "merge" or rng.random() < 0.3 else []

    def run() -> list[str]:
        from sdk import ConceptPack

        from .commands import call

        if way == "engine":
            try:
                return honest.pack(place.assets.engine.load_pack(folder), place, rng)
            finally:
                place.assets.engine.unload_pack()
        if way in _COMMANDS:
            line = [way, str(folder), *_OPTIONS[way], "--device", "cpu", *model]
            if way == "merge":
                line.insert(2, str(place.assets.pack))
            if way != "verify":
                line += ["--output", str(place.out / "made")]
            return honest.printed(*call(line))
        return honest.pack(ConceptPack.from_pretrained(folder), place, rng)

    if way in _COMMANDS and expect == REFUSE:
        return Case(f"{way}: {what}", refused(run))
    return Case(f"{way}: {what}", run, expect)


def refused(run: Any) -> Any:
    """A command that must not succeed, as a case's function."""

    def checked() -> list[str]:
        from .case import Silent
        from .commands import last_status

        notes = run()
        if last_status() == 0:
            raise Silent("went through")
        return notes

    return checked


def _renamed(rng: random.Random, tree: dict[str, Any], files: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """Another token throughout: in the manifest, as a file's name, as its key."""
    token = rng.choice((odd_text(rng), f"<{odd_text(rng)}>", f"<{odd_text(rng)}>"))
    new = f"{token.strip('<>')}.safetensors"
    data = tensor_files.renamed(files.pop("new1.safetensors"), "<new1>", token)
    if "/" not in new and "\0" not in new and 0 < len(new.encode("utf-8", "replace")) < 200:
        new = new.encode("utf-8", "replace").decode()
        files[new] = data
    tree["concepts"][0]["token"] = token
    fix_hashes(tree, files)
    tree["files"].setdefault(new, hashlib.sha256(data).hexdigest())
    tensor_files.fix_content_hash(tree, files)
    return f"token {token!r:.80}", files


def _other_weights(rng: random.Random, files: dict[str, bytes]) -> bytes:
    return files[rng.choice((WEIGHTS, "new1.safetensors"))]


def _table(rng: random.Random, tree: dict[str, Any], place: Place) -> str:
    """The table of files: names that lead elsewhere, hashes of another form."""
    kind = rng.choice(("outside", "outside", "missing", "hash", "name", "tree"))
    if kind == "outside":
        target = place.inputs / "secret.bin"
        target.write_bytes(b"secret")
        digest = hashlib.sha256(b"secret").hexdigest()
        name = rng.choice(("../secret.bin", str(target), "./../secret.bin", "../pack/../secret.bin"))
        tree["files"][name] = digest
        return f"outside {name[-20:]}"
    if kind == "missing":
        name = rng.choice(list(tree["files"]))
        del tree["files"][name]
        return f"without {name}"
    if kind == "hash":
        name = rng.choice(list(tree["files"]))
        digest = tree["files"][name]
        tree["files"][name] = rng.choice(
            (digest.upper(), digest[:-1], "", None, 5, [digest], {"sha256": digest}, " " + digest)
        )
        return f"hash {tree['files'][name]!r:.20}"
    if kind == "name":
        name = odd_name(rng)
        tree["files"][name] = "0" * 64
        return f"name {name!r:.60}"
    changed, what = mutated(rng, {"files": tree["files"]})
    tree["files"] = changed["files"] if isinstance(changed, dict) and "files" in changed else changed
    return what


def _place(rng: random.Random, folder: Path) -> str:
    """Files that are none."""
    name = rng.choice((MANIFEST, WEIGHTS, "reference.png", "new1.safetensors"))
    file = folder / name
    kind = rng.choice(("fifo", "folder", "link", "gone", "empty", "loop", "file instead", "zero"))
    data = file.read_bytes()
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        (folder.parent / "elsewhere").write_bytes(data)
        file.symlink_to("../elsewhere")
    elif kind == "empty":
        file.touch()
    elif kind == "loop":
        file.symlink_to(name)
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "file instead":
        shutil.rmtree(folder)
        folder.write_bytes(data)
    return f"{name} {kind}"
