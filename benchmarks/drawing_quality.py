"""What each engine, precision and speed draws, judged on the benchmark scenes of the bundled world.

A pack is fitted on each scene of two concepts and drawn in every way with the same prompts and seeds; one base is
exported for all. Fitted packs and figures are kept in the folder, so the command may be interrupted and repeated.

Usage: python -m benchmarks.drawing_quality [--scenes 10] [--folder out/drawing_quality] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.study.measures import interval
from sdk import Concept, ConceptPack, Personalizer, quiet
from sdk.deploy import OnnxPersonalizer
from sdk.eval import Drawn
from sdk.miniworld import JudgeScorer, reference_scene, render
from sdk.runtime import keep_memory

SPEEDS = ("exact", "balanced", "fast")
ENGINES = {
    "ONNX Runtime": {"engine": "onnxruntime"},
    "OpenVINO fp32": {"engine": "openvino", "precision": "fp32"},
    "OpenVINO bf16": {"engine": "openvino", "precision": "bf16"},
    "OpenVINO int8": {"engine": "openvino", "precision": "int8"},
}
MEASURES = ("recognised", "once", "together", "leakage")
FIELDS = ("scene", "engine", "speed", *MEASURES)


def figures(scores: Any) -> dict[str, float]:
    """The measures of one scene."""
    found = {name: statistics.mean(getattr(scores, name)) for name in ("recognised", "once")}
    return found | {"together": scores.together, "leakage": scores.leakage}


def drawers(personalizer: Personalizer, base: Path, pack: ConceptPack, adapter: Path) -> dict[str, Callable]:
    """Functions that draw prompts with a pack, by engine."""
    found: dict[str, Callable] = {"torch": lambda texts, **how: personalizer.generate(texts, concepts=pack, **how)}
    for name, how in ENGINES.items():
        opened = OnnxPersonalizer.from_pretrained(base, **how)
        opened.add_pack("own", adapter)
        found[name] = lambda texts, opened=opened, **how: opened.generate(texts, concepts="own", **how)
    return found


def run_scene(personalizer: Personalizer, base: Path, folder: Path, index: int, prompts: int, done: set[str]):
    """Yield one row for each way to draw one scene, but for engines that have drawn it."""
    scene = reference_scene("test", index, 2)
    picture, _ = render(scene)
    concepts = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
    scorer = JudgeScorer()
    scorer.look_at(picture, concepts)
    wanted = scorer.prompts(concepts, prompts)
    own = folder / f"scene-{index}"
    if not own.exists():
        personalizer.fit(picture, concepts, seed=index).save_pretrained(own)
    pack = ConceptPack.from_pretrained(own)
    adapter = pack.export_adapter(folder / f"scene-{index}.onnx_adapter")
    ways = drawers(personalizer, base, pack, adapter)
    for engine, draw in ((engine, draw) for engine, draw in ways.items() if engine not in done):
        for speed in SPEEDS:
            images = draw([p.learned for p in wanted], seed=1000, speed=speed).images
            drawn = [Drawn(p.learned, p.asked, p.background, [i]) for p, i in zip(wanted, images, strict=True)]
            scores = figures(scorer.score(drawn))
            yield {"scene": index, "engine": engine, "speed": speed} | {n: round(v, 4) for n, v in scores.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Means with 95 % intervals over scenes."""
    lines = ["| engine | speed | " + " | ".join(MEASURES) + " |", "|---|---|" + "---|" * len(MEASURES)]
    for engine in ("torch", *ENGINES):
        for speed in SPEEDS:
            own = [r for r in rows if (r["engine"], r["speed"]) == (engine, speed)]
            if own:
                cells = [interval([float(r[name]) for r in own]) for name in MEASURES]
                shown = " | ".join(f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in cells)
                lines.append(f"| {engine} | {speed} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=10, help="for each concept alone, and for both")
    parser.add_argument("--folder", type=Path, default=Path("out/drawing_quality"))
    parser.add_argument("--csv", type=Path, default=Path("out/drawing_quality/figures.csv"))
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    base = arguments.folder / "base"
    if not base.exists():
        personalizer.export_onnx(base, shared=True, int8=True)
    rows: list[dict[str, Any]] = []
    if arguments.csv.exists():
        with arguments.csv.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
    for index in range(arguments.scenes):
        done = {r["engine"] for r in rows if int(r["scene"]) == index}
        if done >= {"torch", *ENGINES}:
            continue
        rows += run_scene(personalizer, base, arguments.folder, index, arguments.prompts, done)
        with arguments.csv.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
