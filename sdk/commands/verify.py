"""Check a pack, an adapter or an exported ONNX folder: is it whole, on which base model, and what loads it.

Of a PNG picture: how it was drawn.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from ..deploy.onnx_folder import MANIFEST, check_folder
from ..disk.reading import as_path
from ..exports import FORMATS, load_format
from ..exports.result import default_name
from ..images.image_io import SUFFIXES
from ..printable import printable
from ..rights import Statement
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer verify my-pets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pack", metavar="PACK", help="what a fit wrote, an .onnx_adapter, an exported ONNX folder, or a PNG picture"
    )
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    path = as_path(arguments.pack, "pack")
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        _picture(path)
    elif path.suffix == ".onnx_adapter":
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
    say(f"files: whole, content sha256 {pack.content_hash()}")
    say(f"method: {pack.method}, fitted on the base model {pack.base.name}")
    say(f"base model: {'matches' if checked else 'not on this machine and not checked; give --model to check it'}")
    say(f"tokens: {', '.join(pack.tokens)}")
    say(f"loads in: this package, with prompts such as {pack.prompt!r}")
    for name in pack.token_files():
        say(f"{name}: also in diffusers by load_textual_inversion, the word alone without K and V")
    _rights(pack.statement)
    folder = shlex.quote(str(path))
    if pack.unet:
        say(f"{UNET}: this package alone; for others: personalizer export {folder} --format onnx --output DIR")
        return
    if not pack.key_value:
        return
    export = f"personalizer export {folder} --output DIR --format"
    say(f"{WEIGHTS}: this package; others after one of these:")
    for name in FORMATS:
        for line in load_format(name).loads_in(pack, export, default_name(path)):
            say(line)


def _adapter(path: Path) -> None:
    from ..deploy.adapters import read_adapter

    adapter = read_adapter(path)
    say("file: whole")
    say(f"base model: {adapter.base.name}, exported with --shared")
    say(f"concepts: {', '.join(c.phrase for c in adapter.concepts)}")
    _rights(adapter.statement)
    say(f"loads in: sdk.deploy.OnnxPersonalizer, add_pack('mine', {str(path)!r}), concepts='mine'")


def _folder(path: Path) -> None:
    folder = check_folder(path, all_hashes=True)
    say(f"files: {folder.count}, all whole")
    int8 = ", its UNet in int8 too" if folder.has_int8 else ""
    say(f"kind: {folder.kind}, {folder.dtype}{int8}, of the base model {folder.base.name}")
    _rights(folder.statement)
    tools = "sdk.deploy.OnnxPersonalizer"
    if folder.kind == "merged":
        words = " and ".join(f"a {c.phrase}" for c in folder.concepts) or "anything"
        tools += f", Optimum's ORTStableDiffusionPipeline; write {words}"
    say(f"loads in: {tools}")


def _rights(stated: Statement) -> None:
    for name, text in (("licence", stated.licence), ("consent", stated.consent)):
        if text:
            say(f"{name}: {text}")


def _picture(path: Path) -> None:
    from ..images.record import read_record

    record = read_record(path)
    if record is None:
        say(f"{path}: a picture that does not say how it was drawn")
        return
    say(f"{path}: {'edited' if record.edited else 'drawn'} by a model, as it says of itself; anybody can change that")
    say(f"prompt: {printable(record.prompt, 2000)}")
    for name in (
        "negative_prompt",
        "seed",
        "steps",
        "scheduler",
        "guidance_scale",
        "eta",
        "strength",
        "base",
        "pack",
        "licence",
    ):
        value = getattr(record, name)
        if value not in (None, ""):
            say(f"{name.replace('_', ' ')}: {printable(value, 2000)}")
    if record.concepts:
        say(f"concepts: {printable(', '.join(record.concepts), 2000)}")
