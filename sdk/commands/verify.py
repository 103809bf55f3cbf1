"""Check a pack, an adapter or an exported ONNX folder: is it whole, on which base model, and what loads it."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from ..deploy.onnx_folder import MANIFEST, check_folder
from ..exports import FORMATS, load_format
from ..exports.result import default_name
from ..printable import printable
from ..reading import as_path
from .common import add_model_arguments, load_personalizer

_LONGEST = 5000  # characters of a line; paths may be long
EXAMPLE = "personalizer verify my-pets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="what a fit wrote, an .onnx_adapter, or an exported ONNX folder")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    path = as_path(arguments.pack, "pack")
    if path.suffix == ".onnx_adapter":
        _adapter(path)
    elif os.path.isfile(path / MANIFEST):
        _folder(path)
    else:
        _pack(arguments, path)


def _pack(arguments: argparse.Namespace, path: Path) -> None:
    from ..model.loading import stated_is_local
    from ..pack import UNET, WEIGHTS, ConceptPack

    pack = ConceptPack.from_pretrained(path)
    checked = bool(arguments.model) or stated_is_local(pack.base.name)
    if checked:
        load_personalizer(arguments, pack.base.name).load_pack(pack)
    _say(f"files: whole, content sha256 {pack.content_hash()}")
    _say(f"method: {pack.method}, fitted on the base model {pack.base.name}")
    _say(f"base model: {'matches' if checked else 'not on this machine and not checked; give --model to check it'}")
    _say(f"tokens: {', '.join(pack.tokens)}")
    _say(f"loads in: this package, with prompts such as {pack.prompt!r}")
    for name in pack.token_files():
        _say(f"{name}: also in diffusers by load_textual_inversion, the word alone without K and V")
    folder = shlex.quote(str(path))
    if pack.unet:
        _say(f"{UNET}: this package alone; for others: personalizer export {folder} --format onnx --output DIR")
        return
    if not pack.key_value:
        return
    export = f"personalizer export {folder} --output DIR --format"
    _say(f"{WEIGHTS}: this package; others after one of these:")
    for name in FORMATS:
        for line in load_format(name).loads_in(pack, export, default_name(path)):
            _say(line)


def _adapter(path: Path) -> None:
    from ..deploy.adapters import read_adapter

    adapter = read_adapter(path)
    _say("file: whole")
    _say(f"base model: {adapter.base.name}, exported with --shared")
    _say(f"concepts: {', '.join(c.phrase for c in adapter.concepts)}")
    _say(f"loads in: sdk.deploy.OnnxPersonalizer, add_pack('mine', {str(path)!r}), concepts='mine'")


def _folder(path: Path) -> None:
    folder = check_folder(path, all_hashes=True)
    _say(f"files: {folder.count}, all whole")
    _say(f"kind: {folder.kind}, {folder.dtype}, of the base model {folder.base.name}")
    tools = "sdk.deploy.OnnxPersonalizer"
    if folder.kind == "merged":
        words = " and ".join(f"a {c.phrase}" for c in folder.concepts) or "anything"
        tools += f", Optimum's ORTStableDiffusionPipeline; write {words}"
    _say(f"loads in: {tools}")


def _say(line: str) -> None:
    print(printable(line, _LONGEST))
