"""How far does calibrating bring the maps? DisenDiff's loss on the maps before and after fits of several weights.

Means over a scene's first and last twenty steps; weight zero trains without it and only looks. The loss of two concepts
is 1 - IoU of modifier and class, summed over both, plus what separating and strengthening the classes add.

Usage: python -m benchmarks.study.calibration [--scenes 4]
"""

from __future__ import annotations

import argparse

from benchmarks.study.measures import interval
from sdk import Personalizer
from sdk.commands.common import keep_memory, quiet
from sdk.miniworld.references import reference_scene
from sdk.miniworld.render import render

WEIGHTS = (0.0, 0.01, 0.1, 1.0)
LOOKING = 1e-12  # counted as switched on, and lost beside the denoising loss
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=4, help="the first so many of two concepts")
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    personalizer = Personalizer.from_pretrained("bundled")
    print("| weight | calibration loss, first steps | last steps | denoising loss, last steps |\n|---|---|---|---|")
    for weight in WEIGHTS:
        config = personalizer.default_config("reference", calibration_weight=weight or LOOKING)
        found: list[tuple[float, float, float]] = []
        for index in range(arguments.scenes):
            scene = reference_scene("test", index)
            steps: list[dict[str, float]] = []
            nouns = [item.noun for item in scene.objects]
            personalizer.fit(
                render(scene)[0], nouns, config=config, seed=index, callback=lambda r, s=steps: s.append(r.losses)
            )
            calibration = [step["calibration"] for step in steps]
            denoise = [step["denoise"] for step in steps[-STEPS:]]
            found.append((mean(calibration[:STEPS]), mean(calibration[-STEPS:]), mean(denoise)))
        cells = (interval(column) for column in zip(*found, strict=True))
        print(f"| {weight:g} | " + " | ".join(f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in cells) + " |")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
