"""Measure fidelity and leakage of a pack on the bundled world, beside the untouched model."""

from __future__ import annotations

import argparse

from ..runtime import progress
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer evaluate my-pets --output report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="folder that a fit wrote")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for report.html, metrics.json and gallery.png"
    )
    add_model_arguments(parser)
    parser.add_argument("--num-images", type=int, default=4, help="per prompt; default 4")
    parser.add_argument("--steps", type=int, help="of the sampler; default 25, or a distilled model's own")
    parser.add_argument("--seed", type=int, default=1000)


def run(arguments: argparse.Namespace) -> None:
    from ..disk.files import output_folder
    from ..disk.folders import exclusive
    from ..pack import ConceptPack

    pack = ConceptPack.from_pretrained(arguments.pack)
    from ..eval.evaluation import evaluate
    from ..eval.report import FILES, check_report_folder, save_report
    from ..eval.scorers import looked_at

    looked_at(pack, pack.base.resolution)  # mistakes show before the model is loaded
    with (
        output_folder(arguments.output) as folder,
        exclusive(folder, f"another program is writing to {folder}; wait, or give another folder"),
    ):
        check_report_folder(folder, FILES)
        personalizer = load_personalizer(arguments, pack.base.name)
        with progress() as bar:
            report = evaluate(
                personalizer,
                pack,
                num_images=arguments.num_images,
                num_inference_steps=arguments.steps,
                seed=arguments.seed,
                progress=bar,
            )
        page = save_report(report, folder)
    say(report.table())
    say(page)
