"""Merge packs that were fitted apart into one, in closed form, for use in one prompt."""

from __future__ import annotations

import argparse
import os
import shlex

from ..errors import OutputError
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer merge my-cat my-dog --output both"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("packs", metavar="PACK", nargs="+", help="folders that fits wrote; two or more")
    parser.add_argument("--output", required=True, metavar="PACK", help="folder for the merged pack")
    add_model_arguments(parser)


def _check_output(folder: str) -> None:
    """Refuse to replace what was fitted: a merged pack can be made again, the hours of a fit cannot."""
    from ..pack import MANIFEST, read_manifest

    if os.path.isfile(os.path.join(folder, MANIFEST)) and read_manifest(folder)["method"] != "merged":
        raise OutputError(f"{folder} holds a pack that was fitted; give another folder for the merged one")


def run(arguments: argparse.Namespace) -> None:
    from ..combine.merging import merge
    from ..combine.routing import with_own_tokens
    from ..pack import ConceptPack

    packs = [ConceptPack.from_pretrained(folder) for folder in arguments.packs]
    with_own_tokens(packs)  # mistakes show before the model is loaded
    if any(os.path.realpath(folder) == os.path.realpath(arguments.output) for folder in arguments.packs):
        raise OutputError(f"{arguments.output} is one of the packs that are merged; give another folder")
    _check_output(arguments.output)
    merged = merge(load_personalizer(arguments, packs[0].base.name), packs)
    merged.save_pretrained(arguments.output)
    command = ["personalizer", "generate", arguments.output, "--prompt", merged.prompt, "--output", "pictures"]
    for line in (
        f"{arguments.output}: {', '.join(c.phrase for c in merged.concepts)}",
        f"try: {shlex.join(command)}",
    ):
        say(line)
