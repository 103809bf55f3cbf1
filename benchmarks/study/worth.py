"""What is calibration worth, and when? Fits of several weights, paired by scene with those without it.

Prints a table for each base model: means of each weight and, in the same cells, the difference to weight 0 with its
interval over scenes (95 %), in brackets where that holds 0. With ``--output`` a dot for each scene: how the base
model's class words looked before the fit against what a weight brought there.

Each file is of one base model, which stands in the JSON beside it.

Usage: python -m benchmarks.study.worth FILE.csv ... [--arm disendiff:best] [--weight 0.1 --output worth.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch

from benchmarks.study.measures import interval
from benchmarks.study.summary import by_scene, cell, heading, read
from sdk import Personalizer, quiet
from sdk.miniworld import TASKS, class_maps, overlaps, task_scene

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEASURES = ("recognised", "together", "once", "leakage", "map_own", "map_other")
BASES = {"bundled": "bundled", "natural": "benchmarks/bases/natural"}
Rows = dict[tuple[str, float], list[dict]]


def gathered(files: Sequence[Path], arm: str) -> Rows:
    """Return an arm's rows, and those of its variants of another weight, by base model and weight."""
    found: Rows = {}
    same = (arm, f"{arm}-no-calibration", f"{arm}-code-weight")
    for file in files:
        beside = file.with_suffix(".json")
        if not beside.is_file():
            raise SystemExit(f"{file} does not say what it was measured with, as {beside} would; leave it out")
        settings = json.loads(beside.read_text())
        if settings["split"] != "test":
            raise SystemExit(f"{file} is of tuning scenes, which choose and do not report")
        base = settings.get("base", "bundled")
        for row in read([file]):
            if row["arm"] in same and row.get("calibration"):
                found.setdefault((base, float(row["calibration"])), []).append(row | {"arm": arm})
    return found


def table(rows: Rows, base: str, task: str, arm: str) -> str:
    """Return a base model's table of one task."""
    weights = sorted(weight for name, weight in rows if name == base)
    none = {measure: by_scene(rows.get((base, 0.0), []), task, arm, measure) for measure in MEASURES}
    lines = [f"| {base}, {heading(task)}: weight | scenes | " + " | ".join(MEASURES) + " |"]
    lines.append("|---" * (len(MEASURES) + 2) + "|")
    for weight in weights:
        cells, scenes = [], 0
        for measure in MEASURES:
            values = by_scene(rows[base, weight], task, arm, measure)
            scenes = max(scenes, len(values))
            gains = [value - none[measure][scene] for scene, value in values.items() if scene in none[measure]]
            mean = f"{interval(list(values.values()))[0]:.3f}" if values else ""
            cells.append(f"{mean}; {cell(gains, measure, True)}" if gains and weight else mean)
        if scenes:
            lines.append(f"| {weight:g} | {scenes} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def looks(base: str, task: str, scenes: Sequence[int]) -> list[tuple[float, float]]:
    """Return the IoU of class words' maps with their own objects and with others, of the model before any fit."""
    pipe = Personalizer.from_pretrained(BASES[base], device="cpu").pipe
    parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler)
    drawn = [task_scene(task, "test", index) for index in scenes]
    captions = [" and ".join(f"a {item.noun}" for item in scene.objects) for scene in drawn]
    own, other = overlaps(*class_maps(*parts, drawn, captions))
    return list(zip(own.mean(1).tolist(), other.mean(1).tolist(), strict=True))


def plot(rows: Rows, weight: float, task: str, arm: str, output: Path) -> None:
    """Draw a dot for each scene, and print how gains go with what class words looked at."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for number, base in enumerate(dict.fromkeys(name for name, _ in rows)):
        measured = [by_scene(rows.get((base, each), []), task, arm, "together") for each in (0.0, weight)]
        scenes = sorted(measured[0].keys() & measured[1].keys())
        if len(scenes) < 3:
            continue
        gains = [measured[1][scene] - measured[0][scene] for scene in scenes]
        for axis, values, name in zip(
            axes, zip(*looks(base, task, scenes), strict=True), ("own", "other"), strict=True
        ):
            axis.scatter(values, gains, color=f"C{number}", label=base, s=22)
            axis.set_xlabel(f"IoU of class words with the {name} object, before the fit")
            both = torch.corrcoef(torch.tensor([values, gains]))[0, 1].item()
            print(f"{base}, {len(scenes)} scenes: correlation of the gain with the {name} object's IoU: {both:+.2f}")
    for axis in axes:
        axis.axhline(0, color="grey", lw=0.8)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"both right: weight {weight:g} less weight 0")
    axes[0].legend()
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    print(output)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--arm", default="disendiff:best")
    parser.add_argument("--task", choices=TASKS, default="two")
    parser.add_argument("--weight", type=float, default=0.1, help="of the figure")
    parser.add_argument("--output", type=Path, help="draw the figure there")
    arguments = parser.parse_args(argv)
    quiet()
    rows = gathered(arguments.files, arguments.arm)
    for base in dict.fromkeys(name for name, _ in rows):
        print(table(rows, base, arguments.task, arguments.arm) + "\n")
    if arguments.output:
        plot(rows, arguments.weight, arguments.task, arguments.arm, arguments.output)


if __name__ == "__main__":
    main()
