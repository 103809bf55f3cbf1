"""Does calibration keep concepts apart? Held-out scenes of the bundled world, fitted with and without it.

Both arms of a scene share seed, priors, augmentation, noise and prompts. Prints means with 95 % bootstrap
intervals over scenes. Finished scenes are kept in the CSV file and not fitted again.

Usage: python benchmarks/separation.py --output out/study [--scenes 10]
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from sdk import Personalizer
from sdk.commands.common import quiet
from sdk.evaluation import Scores, draw_for, read_identities, score
from sdk.miniworld.judge import bundled_judge
from sdk.miniworld.references import SPLITS, reference_scene
from sdk.miniworld.render import render

MEASURES = ("fidelity", "leakage", "together", "text_alignment")
ARMS = ("with calibration", "without calibration", "untouched")


def figures(scores: Scores) -> dict[str, float]:
    """Return the measures of one model on one scene."""
    values = {name: getattr(scores, name) for name in MEASURES}
    return {name: float(value) for name, value in values.items() if value is not None}


def run_scene(personalizer: Personalizer, split: str, index: int, images: int, changes: dict) -> list[dict]:
    """Fit and judge one scene in both arms; return one row per arm, the untouched model included."""
    scene = reference_scene(split, index)
    picture, _ = render(scene)
    nouns = [item.noun for item in scene.objects]
    judge = bundled_judge()
    common = {"num_images": images, "num_inference_steps": 25, "seed": 1000}
    rows: list[dict] = []
    for arm, extra in zip(ARMS, ({}, {"calibration_weight": 0.0}, None), strict=True):
        if extra is not None:
            config = personalizer.default_config(**(changes | extra))
            pack = personalizer.fit(picture, nouns, config=config, seed=index)
        drawn = draw_for(personalizer, pack.concepts, None if extra is None else pack, **common)
        scores = score(drawn, read_identities(pack, judge), judge)
        rows.append({"scene": index, "nouns": "+".join(nouns), "arm": arm, **figures(scores)})
    return rows


def interval(values: list[float], draws: int = 10000) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval over scenes."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return sum(values) / len(values), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def summary(rows: list[dict]) -> str:
    """Return the table: means per arm, and the paired difference of the two fitted arms."""
    scenes = sorted({int(row["scene"]) for row in rows})
    by_key = {(int(row["scene"]), row["arm"]): row for row in rows}
    lines = [f"| {len(scenes)} scenes | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for arm in ARMS:
        cells = [interval([float(by_key[s, arm][m]) for s in scenes]) for m in MEASURES]
        lines.append(f"| {arm} | " + " | ".join(f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in cells) + " |")
    differences = []
    for measure in MEASURES:
        pairs = [float(by_key[s, ARMS[0]][measure]) - float(by_key[s, ARMS[1]][measure]) for s in scenes]
        differences.append(interval(pairs))
    lines.append("| difference | " + " | ".join(f"{a:+.3f} [{b:+.3f}, {c:+.3f}]" for a, b, c in differences) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/study"))
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--images", type=int, default=4, help="pictures per prompt")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of both arms")
    arguments = parser.parse_args()
    quiet()
    changes = {k: float(v) if "." in v or "e" in v else int(v) for k, v in (item.split("=") for item in arguments.set)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "separation.csv"
    rows = list(csv.DictReader(file.open())) if file.is_file() else []
    done = {int(row["scene"]) for row in rows}
    personalizer = Personalizer.from_pretrained("bundled")
    for index in range(arguments.first, arguments.first + arguments.scenes):
        if index in done:
            continue
        rows += run_scene(personalizer, arguments.split, index, arguments.images, changes)
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, ["scene", "nouns", "arm", *MEASURES])
            writer.writeheader()
            writer.writerows(rows)
        print(summary(rows), flush=True)


if __name__ == "__main__":
    main()
