"""Fit one picture with several methods and write a page that shows them side by side."""

from __future__ import annotations

import argparse

from ..comparison.variants import resolve_arms
from ..concepts import resolve_concepts
from ..runtime import progress
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = (
    "personalizer compare photo.jpg --concept cat --concept dog --methods disendiff,custom_diffusion --output report"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the reference picture")
    parser.add_argument(
        "--concept", action="append", required=True, metavar="NOUN", help="class of a subject; repeat it"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the page, the table and the packs")
    add_model_arguments(parser)
    parser.add_argument(
        "--methods",
        metavar="A,B,...",
        help="methods, 'method:preset' or 'disendiff:ablation'; default every method and disendiff:best",
    )
    parser.add_argument("--steps", type=int, help="optimiser steps of every method; default each one's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mask", action="append", metavar="FILE", help="where a concept is, white on black; repeat it")
    parser.add_argument("--prompts", type=int, default=4, help="of each kind, at most 10; default 4")
    parser.add_argument("--num-images", type=int, default=2, help="per prompt; default 2")
    parser.add_argument("--clip", metavar="DIR", help="CLIP encoder for photographs; default from the Hub")
    parser.add_argument("--dino", metavar="DIR", help="DINO encoder for photographs; default from the Hub")


def run(arguments: argparse.Namespace) -> None:
    names = None if arguments.methods is None else arguments.methods.split(",")
    resolve_arms(names)  # mistakes show before anything is loaded
    resolve_concepts(arguments.concept)
    from ..comparison.report import check_comparison_folder, save_comparison
    from ..comparison.runs import compare
    from ..disk.files import prepare_output_folder
    from ..disk.folders import exclusive
    from ..images.image_io import load_image, load_mask

    load_image(arguments.image)
    for file in arguments.mask or []:
        load_mask(file)
    folder = prepare_output_folder(arguments.output)
    scorer = None
    if arguments.clip or arguments.dino:
        from ..eval.encoders import CLIP, DINO, EncoderScorer

        scorer = EncoderScorer.from_pretrained(arguments.clip or CLIP, arguments.dino or DINO)
    with exclusive(folder, f"another program is writing to {folder}; wait, or give another folder"):
        check_comparison_folder(folder, [arm.name for arm in resolve_arms(names)])
        personalizer = load_personalizer(arguments, "bundled")
        with progress() as bar:
            comparison = compare(
                personalizer,
                arguments.image,
                arguments.concept,
                methods=names,
                settings=None if arguments.steps is None else {"steps": arguments.steps},
                seed=arguments.seed,
                masks=arguments.mask,
                prompts=arguments.prompts,
                num_images=arguments.num_images,
                scorer=scorer,
                progress=bar,
            )
        page = save_comparison(comparison, folder)
    say(comparison.table())
    say(page)
