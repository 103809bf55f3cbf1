"""The study in one table: what most readers want to know of every method, on every task.

Means over those scenes of a task that every method has that was run on it; their intervals are what
``benchmarks.study.summary`` prints. A method that was not run on a task has empty cells. The best figure of a column is
bold.

Usage: python -m benchmarks.study.short FILE.csv ... [--tasks two,three]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study.summary import by_scene, heading, read
from sdk.miniworld import TASKS

ARMS = {
    "disendiff:best": "**the default: our preset**",
    "disendiff": "DisenDiff",
    "attencraft": "AttenCraft",
    "break_a_scene": "Break-A-Scene",
    "custom_diffusion": "Custom Diffusion",
    "textual_inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
}
SHOWN = {
    "two": ("recognised", "once", "together", "leakage"),
    "three": ("recognised", "together"),
    "same-class": ("recognised", "together", "exchange"),
    "similar": ("recognised", "together", "exchange"),
}
LESS = ("leakage", "exchange")  # is better
NAMES = {"recognised": "alone"}


def table(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """Return the table of some tasks."""
    columns = [(task, measure) for task in tasks for measure in SHOWN[task]]
    shared = {task: common_scenes(rows, task) for task in tasks}
    means: dict[str, list[float | None]] = {}
    for arm in ARMS:
        found = [(by_scene(rows, task, arm, measure), shared[task]) for task, measure in columns]
        means[arm] = [
            fmean(values[s] for s in scenes) if scenes and values.keys() >= set(scenes) else None
            for values, scenes in found
        ]
    best: list[str] = []
    for place, (_, measure) in enumerate(columns):
        there = [line[place] for line in means.values() if line[place] is not None]
        best.append(f"{(min if measure in LESS else max)(there):.2f}" if there else "")
    heads = [f"{heading(task)} ({len(shared[task])}): {NAMES.get(measure, measure)}" for task, measure in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm, name in ARMS.items():
        shown = ["" if value is None else f"{value:.2f}" for value in means[arm]]
        if any(shown):
            cells = [f"**{cell}**" if cell and cell == top else cell for cell, top in zip(shown, best, strict=True)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def common_scenes(rows: Sequence[dict[str, Any]], task: str) -> list[int]:
    """Return the scenes of a task that every method has that was run on it."""
    runs = [run for arm in ARMS if (run := set(by_scene(rows, task, arm, "recognised")))]
    return sorted(set.intersection(*runs)) if runs else []


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tasks", default=",".join(SHOWN), help="default: all, %(default)s")
    arguments = parser.parse_args(argv)
    tasks = arguments.tasks.split(",")
    if not set(tasks) <= TASKS.keys():
        parser.error(f"--tasks takes {', '.join(TASKS)}")
    rows = read(arguments.files)
    print(table(rows, [task for task in tasks if any(by_scene(rows, task, arm, "recognised") for arm in ARMS)]))


if __name__ == "__main__":
    main()
