"""One table of what the product costs on this CPU, beside its peers, with the goals: ``make bench``.

Every section runs in a process of its own, all ways of one in turns. What needs a large model wants the folder of its
export, with ``--int8`` if that is to be measured; steps of a fit at that size make their own random weights.

Usage: python -m benchmarks [FOLDER] [--sections kernels,drawing,large,fit] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECTIONS = ("kernels", "drawing", "large", "fit")
COLUMNS = ("what", "ours", "peer", "ratio", "goal", "met")
_MARK = "ROWS "


def row(what: str, ours: str, peer: str, ratio: float, goal: float | None = None) -> dict[str, Any]:
    """A line of the table: how many times a peer takes what ours does, or a share."""
    met = "" if goal is None else "yes" if ratio >= goal else "no"
    return dict(zip(COLUMNS, (what, ours, peer, round(ratio, 2), "" if goal is None else goal, met), strict=True))


def kernels(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The compiled kernels beside every other way to get the maps, and beside the machine's own rate."""
    import statistics

    import torch

    from benchmarks.kernels_cpu import measure, share_of_rate

    rows = []
    for dtype, goal in ((torch.float32, 0.8), (torch.bfloat16, 0.75)):
        kind = str(dtype).removeprefix("torch.")
        medians = {name: statistics.median(times) for name, times in measure(dtype, arguments.rounds).items()}
        mine = next(name for name in medians if name.startswith("ours"))
        took = f"{1e3 * medians[mine]:.1f} ms"
        for name, median in medians.items():
            if name != mine:
                rows.append(
                    row(f"attention with maps, {kind}", took, f"{name} {1e3 * median:.1f} ms", median / medians[mine])
                )
        share = share_of_rate(dtype, medians[mine])
        rows.append(row(f"attention with maps, {kind}", took, "the machine's rate (a share)", share, goal))
    return rows


def drawing(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Four pictures of the bundled model in twenty steps, in every engine."""
    from benchmarks.drawing_speed import four_pictures

    with tempfile.TemporaryDirectory() as scratch:
        seconds = four_pictures(Path(scratch), arguments.rounds)
    rows = []
    for name, took in seconds.items():
        for peer in ("diffusers", "ORT"):
            if name not in ("diffusers", peer):
                goal = 2.0 if peer == "ORT" and name.startswith("OpenVINO") and "fp32" not in name else None
                rows.append(
                    row(
                        "bundled, four pictures",
                        f"{name} {took:.2f} s",
                        f"{peer} {seconds[peer]:.2f} s",
                        seconds[peer] / took,
                        goal,
                    )
                )
    return rows


def large(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One step of two rows with the folder that was given."""
    from benchmarks.drawing_speed import ENGINES, OURS, PEER, measure_steps

    if arguments.folder is None:
        raise SystemExit("give the folder of an export")
    there = (arguments.folder / "unet_int8").is_dir()
    ways = [name for name in (PEER, OURS, *ENGINES) if there or "int8" not in name]
    found = measure_steps(arguments.folder, ways, arguments.rounds)
    peer = next(each for each in found if each["way"] == PEER)["seconds"]
    return [
        row(
            "UNet step, two rows",
            f"{each['way']} {each['seconds']:.2f} s",
            f"{PEER} {peer:.2f} s",
            each["ratio"],
            each["goal"] or None,
        )
        for each in found
        if each["way"] != PEER
    ]


def fit(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A training step at the size of SD 1.5: frozen weights held ready, and converted in every pass."""
    import statistics

    from benchmarks.fit_step import measure

    ways = measure(rows=1, rounds=arguments.rounds, side=64)
    before, ours = (statistics.median(ways[name].seconds) for name in ("converted", "ready"))
    return [
        row("fit, a step of SD 1.5's size", f"{ours:.1f} s", f"converted each time {before:.1f} s", before / ours, 1.8)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join(str(each[name]) for name in COLUMNS) + " |" for each in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="an exported folder of a large model")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(_MARK + json.dumps(globals()[arguments.alone](arguments)))
        return
    from benchmarks.kernels_cpu import processor
    from sdk.bindings.arrays import instruction_set

    rows: list[dict[str, Any]] = []
    for section in arguments.sections.split(","):
        own = [sys.executable, "-m", "benchmarks", "--alone", section, "--rounds", str(arguments.rounds)]
        own += [str(arguments.folder)] if arguments.folder else []
        done = subprocess.run(own, capture_output=True, text=True)
        found = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
        if found is None:  # for want of memory, of a folder, of a package
            said = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            rows.append(dict.fromkeys(COLUMNS, "") | {"what": section, "ours": f"not measured: {said[:120]}"})
        else:
            rows += json.loads(found.removeprefix(_MARK))
    print(f"{processor()}, {instruction_set()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
