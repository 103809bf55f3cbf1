"""Check a pack: its files against their hashes, and whether its base model is the one at hand."""

from __future__ import annotations

import argparse

from .common import add_model_arguments, load_personalizer

EXAMPLE = "personalizer verify my-pets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="folder that a fit wrote")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    from ..pack import ConceptPack

    pack = ConceptPack.from_pretrained(arguments.pack)
    load_personalizer(arguments, pack.base.name).load_pack(pack)
    print(f"files: whole, content sha256 {pack.content_hash()}")
    print(f"method: {pack.method}, fitted on the base model {pack.base.name}")
    print("base model: matches")
    print(f"tokens: {', '.join(pack.tokens)}")
    print(f"loads in: this package, with prompts such as {pack.prompt!r}")
