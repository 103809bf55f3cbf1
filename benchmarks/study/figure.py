"""Picture alignment against text alignment, for all concepts together and each alone: the study as a figure.

After DisenDiff's figure 6. A dot is an arm's mean over scenes, its cross the 95 % interval.

Usage: python -m benchmarks.study.figure FILE.csv ... --output docs/images/study.png [--concepts 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from benchmarks.study.measures import KINDS, interval
from benchmarks.study.summary import by_scene, read
from sdk.arms import ABLATIONS, BEST_WITHOUT

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLES = {"together": "all together", "1": "concept 1 alone", "2": "concept 2 alone", "3": "concept 3 alone"}


def draw(rows: list[dict], concepts: int, arms: list[str], axes) -> None:
    """Draw one row of panels."""
    for axis, kind in zip(axes, KINDS, strict=False):
        for number, arm in enumerate(arms):
            x = list(by_scene(rows, concepts, arm, f"text_{kind}").values())
            y = list(by_scene(rows, concepts, arm, f"image_{kind}").values())
            if not x or not y:
                continue
            (mx, lx, hx), (my, ly, hy) = interval(x), interval(y)
            colour = f"C{number % 10}"
            spread = {"xerr": [[mx - lx], [hx - mx]], "yerr": [[my - ly], [hy - my]]}
            axis.errorbar(mx, my, **spread, fmt="o", color=colour, lw=0.8, ms=5, label=arm)
        axis.set_title(TITLES[kind])
        axis.set_xlabel("text alignment")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("picture alignment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--concepts", type=int, default=2)
    arguments = parser.parse_args()
    rows = read(arguments.files)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    ablations = [arm for arm in arms if arm.partition(":")[2] in (*ABLATIONS, *BEST_WITHOUT)]
    groups = [[arm for arm in arms if arm not in ablations]]
    if ablations:
        groups.append([*(arm for arm in arms if arm in ("disendiff", "disendiff:best")), *ablations])
    panels = arguments.concepts + 1
    figure, grid = plt.subplots(len(groups), panels, figsize=(4.2 * panels, 4.2 * len(groups)), squeeze=False)
    for axes, group in zip(grid, groups, strict=True):
        draw(rows, arguments.concepts, group, axes)
        axes[-1].legend(fontsize=7)
    figure.tight_layout()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)
    print(arguments.output)


if __name__ == "__main__":
    main()
