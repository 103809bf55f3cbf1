"""Check a pack, an adapter or an exported ONNX folder: is it whole, on which base model, and what loads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..deploy.onnx_folder import MANIFEST
from ..exports import FORMATS, load_format
from ..exports.result import default_name
from .common import add_model_arguments, load_personalizer

EXAMPLE = "personalizer verify my-pets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="what a fit wrote, an .onnx_adapter, or an exported ONNX folder")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    path = Path(arguments.pack)
    if path.suffix == ".onnx_adapter":
        _adapter(path)
    elif (path / MANIFEST).is_file():
        _folder(path)
    else:
        _pack(arguments, path)


def _pack(arguments: argparse.Namespace, path: Path) -> None:
    from ..pack import UNET, WEIGHTS, ConceptPack

    pack = ConceptPack.from_pretrained(path)
    load_personalizer(arguments, pack.base.name).load_pack(pack)
    print(f"files: whole, content sha256 {pack.content_hash()}")
    print(f"method: {pack.method}, fitted on the base model {pack.base.name}")
    print("base model: matches")
    print(f"tokens: {', '.join(pack.tokens)}")
    print(f"loads in: this package, with prompts such as {pack.prompt!r}")
    for name in pack.token_files():
        print(f"{name}: also in diffusers by load_textual_inversion, the word alone without K and V")
    if pack.unet:
        print(f"{UNET}: this package alone; for others: personalizer export {path} --format onnx --output DIR")
        return
    if not pack.key_value:
        return
    export = f"personalizer export {path} --output DIR --format"
    print(f"{WEIGHTS}: this package; others after one of these:")
    for name in FORMATS:
        for line in load_format(name).loads_in(pack, export, default_name(path)):
            print(line)


def _adapter(path: Path) -> None:
    from ..deploy.adapters import read_adapter

    adapter = read_adapter(path)
    print("file: whole")
    print(f"base model: {adapter.base.name}, exported with --shared")
    print(f"concepts: {', '.join(c.phrase for c in adapter.concepts)}")
    print(f'loads in: sdk.deploy.OnnxPersonalizer, add_pack("mine", "{path}"), concepts="mine"')


def _folder(path: Path) -> None:
    from ..deploy.model import check_folder

    about = check_folder(path, all_hashes=True)
    print(f"files: {len(about['files'])}, all whole")
    print(f"kind: {about['kind']}, {about['dtype']}, of the base model {about['base_model']['name']}")
    tools = "sdk.deploy.OnnxPersonalizer"
    if about["kind"] == "merged":
        words = " and ".join(f"a {c['token']} {c['class']}" for c in about["concepts"]) or "anything"
        tools += f", Optimum's ORTStableDiffusionPipeline; write {words}"
    print(f"loads in: {tools}")
