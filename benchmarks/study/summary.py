"""The study's tables: means with intervals over scenes, and paired differences to one arm.

Usage: python -m benchmarks.study.summary FILE.csv ... [--against disendiff] [--measures image_1,image_2] [--scenes 10]
    [--arms disendiff,dreambooth] [--tasks two,three]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study.measures import FEWEST, MEASURES, OBJECTS, interval
from benchmarks.study.record import task_of
from sdk.miniworld import TASKS

SHOWN = (*MEASURES, *OBJECTS, "seconds", "memory_mb")


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        with path.open(newline="") as opened:
            rows += list(csv.DictReader(opened))
    return rows


def by_scene(rows: Sequence[dict[str, Any]], task: str, arm: str, measure: str) -> dict[int, float]:
    """Return one arm's figures by scene, the mean where files have it with several seeds."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if task_of(row) == task and row["arm"] == arm and row.get(measure) not in (None, ""):
            found.setdefault(int(row["scene"]), []).append(float(row[measure]))
    return {scene: fmean(values) for scene, values in found.items()}


def heading(task: str) -> str:
    """How tables call a task."""
    return {"two": "2 concepts", "three": "3 concepts", "same-class": "2 of one class", "similar": "2 similar"}[task]


def summary(rows: Sequence[dict[str, Any]], against: str | None = None, measures: Sequence[str] = SHOWN) -> str:
    """Return a table for each task; with ``against``, of paired differences to that arm.

    ``scenes`` counts those that an arm, or both of a pair, were run on.
    """
    lines = []
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    there = {task_of(r) for r in rows}
    for task in (name for name in TASKS if name in there):
        own = [r for r in rows if task_of(r) == task]
        shown = [name for name in measures if any(r.get(name) not in (None, "") for r in own)]
        lines += [f"| {heading(task)} | scenes | " + " | ".join(shown) + " |", "|---" * (len(shown) + 2) + "|"]
        for arm in arms:
            cells, scenes = [], 0
            for measure in shown:
                values = by_scene(rows, task, arm, measure)
                if against is not None:
                    base = by_scene(rows, task, against, measure)
                    values = {scene: value - base[scene] for scene, value in values.items() if scene in base}
                scenes = max(scenes, len(values))
                cells.append(cell(list(values.values()), measure, against is not None) if values else "")
            if any(cells) and arm != against:
                lines.append(f"| {arm} | {scenes} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(values: Sequence[float], measure: str, difference: bool) -> str:
    """A mean with its interval; a difference is in brackets, not significant, if that holds 0 or if scenes are few."""
    mean, low, high = interval(values)
    if measure in ("seconds", "memory_mb"):
        return f"{mean:+.0f}" if difference else f"{mean:.0f}"
    if not difference:
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    shown = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return shown if (low > 0 or high < 0) and len(values) >= FEWEST else f"({shown})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--against", help="an arm; prints paired differences to it, in brackets if not significant")
    parser.add_argument("--measures", default=",".join(SHOWN), help="columns of the file; default %(default)s")
    parser.add_argument("--scenes", type=int, help="the first so many; default all")
    parser.add_argument("--arms", help="in this order; default all")
    parser.add_argument("--tasks", help="default all")
    arguments = parser.parse_args(argv)
    rows = [r for r in read(arguments.files) if arguments.scenes is None or int(r["scene"]) < arguments.scenes]
    if arguments.tasks:
        rows = [row for row in rows if task_of(row) in arguments.tasks.split(",")]
    if arguments.arms:
        wanted = [*arguments.arms.split(","), *([arguments.against] if arguments.against else [])]
        rows = sorted((row for row in rows if row["arm"] in wanted), key=lambda row: wanted.index(row["arm"]))
    print(summary(rows, arguments.against, arguments.measures.split(",")))


if __name__ == "__main__":
    main()
