"""How far does calibrating bring the maps? DisenDiff's loss on the maps before and after fits of several weights.

Means over a scene's first and last twenty steps, of what the fit records: rows are averaged micro-batch by micro-batch,
and one of priors alone counts 0, the same for every weight. Weight zero trains without it and only looks.

Usage: python -m benchmarks.study.calibration [--scenes 4]
"""

from __future__ import annotations

import argparse
from statistics import fmean

from benchmarks.study.measures import interval
from sdk import Personalizer, quiet
from sdk.miniworld import reference_scene, render
from sdk.runtime import keep_memory

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
        config = personalizer.default_config("reference", disendiff={"calibration_weight": weight or LOOKING})
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
            found.append((fmean(calibration[:STEPS]), fmean(calibration[-STEPS:]), fmean(denoise)))
        cells = (interval(column) for column in zip(*found, strict=True))
        print(f"| {weight:g} | " + " | ".join(f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in cells) + " |")


if __name__ == "__main__":
    main()
