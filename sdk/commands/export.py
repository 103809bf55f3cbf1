"""Write a pack for other tools: ONNX Runtime, LoRA loaders, diffusers, A1111/Forge/ComfyUI."""

from __future__ import annotations

import argparse

from ..exports import FORMATS, load_format
from ..printable import printable
from .common import add_model_arguments, load_personalizer

_LONGEST = 5000  # characters of a line; paths may be long
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
    result = chosen.export(pack, personalizer, arguments.output, **chosen.options(arguments))
    lines = [*(str(path) for path in result.paths), *(f"{tool}: {text}" for tool, text in result.prompts.items())]
    for line in (*lines, *result.usage):
        print(printable(line, _LONGEST))
