"""Find where the concepts are in a picture and write a mask of each, to be looked at, edited and handed to fit."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable

from ..concepts import resolve_concepts
from ..disk.file_names import mask_name
from ..runtime import progress
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer masks photo.jpg --concept cat --concept dog --output masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the reference picture")
    parser.add_argument(
        "--concept", action="append", required=True, metavar="NOUN", help="class of a subject; repeat it"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the masks, one PNG file a concept")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    resolved = resolve_concepts(arguments.concept)
    from ..disk.files import prepare_output_folder, write_next
    from ..images.image_io import load_image, png

    picture = load_image(arguments.image)
    folder = prepare_output_folder(arguments.output)
    personalizer = load_personalizer(arguments, "bundled")
    with progress() as bar:
        masks = personalizer.find_masks(picture, resolved, progress=bar)
    files = []
    for index, mask in enumerate(masks):
        # Those that are there may have been edited.
        file, _ = write_next(folder, _name(index), png(mask), 1)
        files.append(file)
        say(f"{file}: {resolved[index].phrase}")
    command = ["personalizer", "fit", arguments.image]
    for concept, file in zip(resolved, files, strict=True):
        command += ["--concept", concept.noun, "--mask", str(file)]
    command += ["--model", arguments.model] if arguments.model else []
    say(f"try: {shlex.join([*command, '--output', 'my-pack'])}")


def _name(concept: int) -> Callable[[int], str]:
    """Names of the masks of a concept, by number; the first is the one of a fit."""
    stem, _, suffix = mask_name(concept).rpartition(".")
    return lambda number: f"{stem}{f'-{number}' if number > 1 else ''}.{suffix}"
