"""Write a pack for other tools: ONNX Runtime, LoRA loaders, diffusers, A1111/Forge/ComfyUI."""

from __future__ import annotations

import argparse
from inspect import signature

from ..exports import FORMATS, load_format
from ..runtime import progress
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer export my-pets --format onnx --output deployed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="folder that a fit wrote")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    add_model_arguments(parser)
    for name in FORMATS:
        load_format(name).add_arguments(parser.add_argument_group(name))


def run(arguments: argparse.Namespace) -> None:
    from ..pack import ConceptPack

    pack = ConceptPack.from_pretrained(arguments.pack)
    personalizer = load_personalizer(arguments, pack.base.name)
    personalizer.check_base(pack)
    chosen = load_format(arguments.format)
    options = chosen.options(arguments)
    with progress() as bar:
        if "progress" in signature(chosen.export).parameters:  # of formats that take their time
            options["progress"] = bar
        result = chosen.export(pack, personalizer, arguments.output, **options)
    lines = [*(str(path) for path in result.paths), *(f"{tool}: {text}" for tool, text in result.prompts.items())]
    for line in (*lines, *result.usage):
        say(line)
