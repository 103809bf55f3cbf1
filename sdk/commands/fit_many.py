"""Fit a table of jobs with several processes; what is done is left alone, so the command may be repeated."""

from __future__ import annotations

import argparse

from ..errors import InputError
from ..runtime import progress
from .common import add_model_arguments, loading_arguments, say, speak_briefly

EXAMPLE = "personalizer fit-many jobs.csv --output packs --workers 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table",
        metavar="TABLE",
        help=".csv, .jsonl or .parquet; columns: image, concepts, masks, method, preset, settings, seed, name",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the packs and the table of results")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that fit at once; default 1")
    parser.add_argument("--threads", type=int, metavar="N", help="of each worker; default the cores shared among them")
    add_model_arguments(parser)


def go_on(arguments: argparse.Namespace) -> str:
    """What to tell after an interruption."""
    return "; what is done so far is kept: go on with the same command"


def run(arguments: argparse.Namespace) -> None:
    speak_briefly()
    from ..fleet import fit_many

    with progress() as bar:
        result = fit_many(
            arguments.table,
            arguments.output,
            workers=arguments.workers,
            threads=arguments.threads,
            progress=bar,
            **loading_arguments(arguments, "bundled"),
        )
    for each in result.failed:
        say(f"failed: {each.name}: {each.reason}")
    done = len(result.outcomes) - len(result.failed)
    say(f"{arguments.output}: {done} of {len(result.outcomes)} done, {result.fitted} tried now; see results.csv there")
    if result.failed:
        raise InputError(f"{len(result.failed)} of {len(result.outcomes)} fits failed; their reasons are above")
