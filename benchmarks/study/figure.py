"""Picture alignment against text alignment, for all concepts together and each alone: the study as a figure.

After DisenDiff's figure 6, with one panel more: whether a concept asked for alone is recognised, and once. Rows:
methods and their presets, DisenDiff's ablations, our preset without its parts. A dot is an arm's mean over scenes, its
cross the 95 % interval; arms that were not run on every scene are left out.

Usage: python -m benchmarks.study.figure FILE.csv ... --output docs/images/study.png [--task two]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import matplotlib

from benchmarks.study.measures import KINDS, interval
from benchmarks.study.record import task_of
from benchmarks.study.summary import by_scene, read
from sdk.methods import method_class
from sdk.miniworld import TASKS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = (*(f"C{number}" for number in range(10)), "black", "gold", "lime", "navy")
TITLES = {"together": "all together", "1": "concept 1 alone", "2": "concept 2 alone", "3": "concept 3 alone"}


def draw(rows: list[dict], task: str, arms: list[str], axes) -> None:
    """Draw one row of panels."""
    panels = [(TITLES[kind], f"text_{kind}", f"image_{kind}") for kind in KINDS[: TASKS[task].concepts + 1]]
    for axis, (title, across, up) in zip(axes, [*panels, ("each alone", "once", "recognised")], strict=True):
        for number, arm in enumerate(arms):
            x = list(by_scene(rows, task, arm, across).values())
            y = list(by_scene(rows, task, arm, up).values())
            if not x or not y:
                continue
            (mx, lx, hx), (my, ly, hy) = interval(x), interval(y)
            spread = {"xerr": [[mx - lx], [hx - mx]], "yerr": [[my - ly], [hy - my]]}
            axis.errorbar(mx, my, **spread, fmt="o", color=COLOURS[number], lw=0.8, ms=5, label=arm)
        axis.set_title(title)
        axis.set_xlabel("once" if across == "once" else "text alignment")
        axis.set_ylabel("recognised" if up == "recognised" else "picture alignment")
        axis.grid(alpha=0.3)


def groups_of(arms: list[str]) -> list[list[str]]:
    """Sort arms into rows of panels."""
    variant = {arm: arm.partition(":")[2] for arm in arms}
    known = method_class("disendiff").variants
    ablations = [arm for arm in arms if variant[arm] in known and known[variant[arm]].preset == "reference"]
    parts = [arm for arm in arms if variant[arm] in known and known[variant[arm]].preset == "best"]
    groups = [[arm for arm in arms if arm not in (*ablations, *parts)]]
    groups += [["disendiff", *ablations]] if ablations else []
    return groups + ([["disendiff:best", *parts]] if parts else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=("two", "three"), default="two")
    arguments = parser.parse_args()
    rows = read(arguments.files)
    counts = Counter(row["arm"] for row in rows if task_of(row) == arguments.task)
    arms = [arm for arm, count in counts.items() if count == max(counts.values())]
    groups = groups_of(arms)
    panels = TASKS[arguments.task].concepts + 2
    figure, grid = plt.subplots(len(groups), panels, figsize=(3.4 * panels + 2, 3.4 * len(groups)), squeeze=False)
    for axes, group in zip(grid, groups, strict=True):
        draw(rows, arguments.task, group, axes)
        axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)
    print(arguments.output)


if __name__ == "__main__":
    main()
