"""Fit the benchmark scenes of the bundled world and judge what was learned.

Twenty scenes of two and eight of three concepts, ten prompts for each concept alone and ten for all together. Prints
means with 95 % bootstrap intervals over scenes. Finished scenes are kept in the CSV file and not fitted again.
``--ablation`` also fits without calibration (same seed, priors, augmentation and noise) and draws with the untouched
model.

Usage: python benchmarks/personalisation.py --output out/personalisation [--ablation] [--scenes 5] [--concepts 2]
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from pathlib import Path

from sdk import Personalizer
from sdk.commands.common import quiet
from sdk.evaluation import Scores, draw_for, read_identities, score
from sdk.miniworld.judge import bundled_judge
from sdk.miniworld.prompts import COUNT
from sdk.miniworld.references import BENCHMARK, SPLITS, reference_scene
from sdk.miniworld.render import render

MEASURES = ("recognised", "clean", "together", "fidelity", "leakage", "text_alignment", "fit_seconds")
FITTED = {"defaults": {}, "without calibration": {"calibration_weight": 0.0}}
UNTOUCHED = "untouched"


def figures(scores: Scores) -> dict[str, float]:
    """Return the measures of one model on one scene."""
    mean = {name: sum(values) / len(values) for name in ("recognised", "clean") for values in [getattr(scores, name)]}
    rest = {name: getattr(scores, name) for name in ("together", "fidelity", "leakage", "text_alignment")}
    return mean | {name: float(value) for name, value in rest.items() if value is not None}


def run_scene(personalizer: Personalizer, arguments: argparse.Namespace, concepts: int, index: int) -> list[dict]:
    """Fit and judge one scene; return one row per arm."""
    scene = reference_scene(arguments.split, index, concepts)
    picture, _ = render(scene)
    nouns = [item.noun for item in scene.objects]
    judge = bundled_judge()
    common = {"prompts": arguments.prompts, "num_images": arguments.images, "num_inference_steps": 25, "seed": 1000}
    rows: list[dict] = []
    for arm in (*FITTED, UNTOUCHED) if arguments.ablation else ("defaults",):
        row = {"concepts": concepts, "scene": index, "nouns": "+".join(nouns), "arm": arm}
        if arm in FITTED:
            config = personalizer.default_config(**(arguments.changes | FITTED[arm]))
            begin = time.monotonic()
            pack = personalizer.fit(picture, nouns, config=config, seed=index)
            row["fit_seconds"] = round(time.monotonic() - begin, 1)
        drawn = draw_for(personalizer, pack.concepts, None if arm == UNTOUCHED else pack, **common)
        rows.append(row | figures(score(drawn, read_identities(pack, judge), judge)))
    return rows


def interval(values: list[float], draws: int = 10000) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval over scenes."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return sum(values) / len(values), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def summary(rows: list[dict]) -> str:
    """Return the tables, one for each number of concepts: means per arm, and the paired difference of the fits."""
    lines = []
    for concepts in sorted({int(row["concepts"]) for row in rows}):
        chosen = [row for row in rows if int(row["concepts"]) == concepts]
        by_key = {(int(row["scene"]), row["arm"]): row for row in chosen}
        arms = list(dict.fromkeys(row["arm"] for row in chosen))
        complete = [s for s in sorted({key[0] for key in by_key}) if all((s, arm) in by_key for arm in arms)]
        lines += [f"| {concepts} concepts, {len(complete)} scenes | " + " | ".join(MEASURES) + " |"]
        lines += ["|---" * (len(MEASURES) + 1) + "|"]

        def cells(values: list[list[float]], form: str) -> str:
            shown = [[format(x, form) for x in interval(v)] if v else [] for v in values]
            return " | ".join(f"{x[0]} [{x[1]}, {x[2]}]" if x else "" for x in shown)

        for arm in arms:
            values = [
                [float(by_key[s, arm][m]) for s in complete if by_key[s, arm].get(m) not in (None, "")]
                for m in MEASURES
            ]
            lines.append(f"| {arm} | {cells(values, '.3f')} |")
        if set(FITTED) <= set(arms):
            pairs = [(by_key[s, a], by_key[s, b]) for s in complete for a, b in [tuple(FITTED)]]
            values = [[float(p[m]) - float(q[m]) for p, q in pairs] for m in MEASURES]
            lines.append(f"| difference | {cells(values, '+.3f')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/personalisation"))
    parser.add_argument("--concepts", type=int, choices=sorted(BENCHMARK), help="default: both")
    parser.add_argument("--scenes", type=int, help="the first so many of each; default all")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--prompts", type=int, default=COUNT, help=f"of each kind; default {COUNT}")
    parser.add_argument("--images", type=int, default=2, help="pictures per prompt")
    parser.add_argument("--ablation", action="store_true", help="also without calibration, and the untouched model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every fit")
    arguments = parser.parse_args()
    quiet()
    numbers = (item.split("=") for item in arguments.set)
    arguments.changes = {k: float(v) if "." in v or "e" in v else int(v) for k, v in numbers}
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "personalisation.csv"
    rows: list[dict] = list(csv.DictReader(file.open())) if file.is_file() else []
    done = {(int(row["concepts"]), int(row["scene"])) for row in rows}
    personalizer = Personalizer.from_pretrained("bundled")
    for concepts in [arguments.concepts] if arguments.concepts else sorted(BENCHMARK):
        for index in range(arguments.first, arguments.first + (arguments.scenes or BENCHMARK[concepts])):
            if (concepts, index) in done:
                continue
            rows += run_scene(personalizer, arguments, concepts, index)
            with file.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, ["concepts", "scene", "nouns", "arm", *MEASURES])
                writer.writeheader()
                writer.writerows(rows)
            print(summary(rows), flush=True)


if __name__ == "__main__":
    main()
