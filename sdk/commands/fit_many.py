"""Fit a table of jobs, with several processes or on a Ray cluster; what is done is left alone, so repeat it freely."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import InputError
from .common import add_model_arguments, loading_arguments, say, speak_briefly
from .on_cluster import add_cluster_arguments, cluster_arguments

EXAMPLE = "personalizer fit-many jobs.csv --output packs --workers 2"
_SHOWN = 16  # lines of what is under way
_IN_FILES = 10.0  # seconds between two lines of a bar that goes to a file, where each stays


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table",
        metavar="TABLE",
        help=".csv, .jsonl or .parquet; columns: image, concepts, masks, method, preset, settings, seed, name",
    )
    parser.add_argument(
        "--output", required=True, metavar="PLACE", help="folder or address (s3://...) for the packs and the results"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="fits at once; default 1, on a cluster all it has room for"
    )
    add_cluster_arguments(parser)
    add_model_arguments(parser)


def go_on(arguments: argparse.Namespace) -> str:
    """What to tell after an interruption."""
    return "; what is done so far is kept: go on with the same command"


def run(arguments: argparse.Namespace) -> None:
    speak_briefly(draws=arguments.address is None and arguments.workers in (None, 1))
    from ..fleet import fit_many

    with fleet_bar() as watch:
        result = fit_many(
            arguments.table,
            arguments.output,
            workers=arguments.workers,
            **cluster_arguments(arguments),
            watch=watch,
            **loading_arguments(arguments, "bundled"),
        )
    for each in result.failed:
        say(f"failed: {each.name}: {each.reason}")
    done = len(result.outcomes) - len(result.failed)
    say(
        f"{arguments.output}: {done} of {len(result.outcomes)} done, {result.fitted} tried now in "
        f"{result.seconds:.0f} s ({result.worked:.0f} s of fits); see results.csv and summary.html there"
    )
    if result.failed:
        raise InputError(f"{len(result.failed)} of {len(result.outcomes)} fits failed; their reasons are above")


@contextmanager
def fleet_bar() -> Iterator[Callable[[Any], None]]:
    """Show how far a fleet is: a bar, and below it what is under way."""
    from tqdm import tqdm

    bars: list[Any] = []
    shown_at = time.monotonic()

    def watch(status: Any) -> None:
        nonlocal shown_at
        with suppress(OSError):  # nobody looks any more: no reason to stop working
            if not bars:
                bars.append(tqdm(total=status.total, initial=status.done + status.failed, unit="fit"))
            bars[0].n = status.done + status.failed
            bars[0].set_postfix_str(f"{status.failed} failed, {status.rate:.1f} a minute", refresh=False)
            terminal = bars[0].fp.isatty()
            if terminal or time.monotonic() - shown_at >= _IN_FILES:
                bars[0].refresh()
                shown_at = time.monotonic()
            shown = status.running[:_SHOWN] if terminal else []
            while len(bars) - 1 < len(shown):
                bars.append(tqdm(total=0, position=len(bars), bar_format="  {desc}", leave=False))
            for place, bar in enumerate(bars[1:]):
                name, seconds = shown[place] if place < len(shown) else ("", 0.0)
                bar.set_description_str(f"{name[:60]}  {seconds:.0f} s" if name else "")

    try:
        yield watch
    finally:
        for bar in reversed(bars):
            with suppress(OSError):
                bar.close()
