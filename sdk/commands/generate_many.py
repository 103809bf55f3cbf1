"""Draw a table of prompts, each with a pack of its own; what is there is left alone, so repeat it freely."""

from __future__ import annotations

import argparse

from ..errors import InputError
from ..rules.drawing import SCHEDULERS
from ..rules.speed import SPEEDS
from ..runtime import progress
from .common import add_model_arguments, loading_arguments, say, speak_briefly
from .on_cluster import add_cluster_arguments, cluster_arguments

EXAMPLE = "personalizer generate-many prompts.csv --output pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", metavar="TABLE", help=".csv, .jsonl or .parquet; columns: prompt, pack, negative_prompt, seed, name"
    )
    parser.add_argument(
        "--output", required=True, metavar="PLACE", help="folder or address (s3://...) for the pictures"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="that draw at once on a cluster; default 1")
    add_cluster_arguments(parser)
    parser.add_argument("--steps", type=int, help="of the sampler; default: the base model's, else 50")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; default: the base model's, else 6")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="default ddim, or a distilled model's own")
    parser.add_argument("--speed", choices=SPEEDS, default="exact", help="balanced: 20 steps; fast: cheaper ones, too")
    parser.add_argument("--height", type=int, help="of the pictures in pixels; default the base model's")
    parser.add_argument("--width", type=int, help="likewise")
    parser.add_argument("--pack-memory", type=float, default=1.0, metavar="GB", help="of packs that are held in memory")
    add_model_arguments(parser)


def go_on(arguments: argparse.Namespace) -> str:
    """What to tell after an interruption."""
    return "; what is drawn is kept: go on with the same command"


def run(arguments: argparse.Namespace) -> None:
    speak_briefly()
    from ..fleet import generate_many

    with progress() as bar:
        result = generate_many(
            arguments.table,
            arguments.output,
            workers=arguments.workers,
            **cluster_arguments(arguments),
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            scheduler=arguments.scheduler,
            speed=arguments.speed,
            height=arguments.height,
            width=arguments.width,
            pack_memory=arguments.pack_memory,
            progress=bar,
            **loading_arguments(arguments, "bundled"),
        )
    for each in result.failed:
        say(f"failed: {each.name}: {each.reason}")
    done = len(result.outcomes) - len(result.failed)
    say(
        f"{arguments.output}: {done} of {len(result.outcomes)} drawn, {result.drawn} tried now in "
        f"{result.seconds:.0f} s; see pictures.csv there"
    )
    if result.failed:
        raise InputError(f"{len(result.failed)} of {len(result.outcomes)} pictures failed; their reasons are above")
