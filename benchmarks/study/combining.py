"""Two packs that were fitted apart, each from a picture of its own, in one prompt: merged or routed by token.

For the benchmark's scenes of two concepts, each object is drawn in a picture of its own and fitted from it. ``apart``
is what each pack draws by itself, ``merged`` the closed form (Custom Diffusion, section 3.2), ``routed`` each pack at
its own words. Measures as in the study; repeat an interrupted run with the same settings.

Usage: python -m benchmarks.study.combining --csv out/combining.csv [--scenes 5] [--part 1/2]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.study.measures import kinds_of, row_of
from benchmarks.study.record import Record, share
from benchmarks.study.summary import summary
from sdk import Concept, ConceptPack, Personalizer, quiet
from sdk.combine import merge, route, with_own_tokens
from sdk.comparison import Result
from sdk.eval import draw_for
from sdk.miniworld import COUNT, TASKS, JudgeScorer, Scene, arrange, reference_scene, render
from sdk.runtime import keep_memory

ARMS = ("apart", "merged", "routed")
DRAWING: dict[str, Any] = {"num_images": 1, "num_inference_steps": 25, "seed": 1000}


def portraits(scene: Scene, index: int) -> list[Image.Image]:
    """Return a picture of each object by itself."""
    rng = random.Random(f"portraits {index}")
    return [render(arrange(rng, [item], scene.background))[0] for item in scene.objects]


def run_scene(personalizer: Personalizer, index: int, prompts: int, arms: list[str]) -> Iterator[dict[str, Any]]:
    """Fit each object of a scene by itself and yield one row per arm."""
    scene = reference_scene("test", index)
    concepts = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
    scorer = JudgeScorer()
    scorer.look_at(render(scene)[0], concepts)
    wanted = scorer.prompts(concepts, prompts)
    begin = time.monotonic()
    packs = with_own_tokens(
        [
            personalizer.fit(picture, [concept.noun], seed=index)
            for picture, concept in zip(portraits(scene, index), concepts, strict=True)
        ]
    )
    seconds = time.monotonic() - begin
    for arm in arms:
        if arm == "apart":
            drawn = [
                item
                for i, pack in enumerate(packs)
                for item in draw_for(personalizer, [p for p in wanted if p.asked == (i,)], pack, **DRAWING)
            ]
        else:
            both: ConceptPack = merge(personalizer, packs) if arm == "merged" else route(packs)
            drawn = draw_for(personalizer, wanted, both, **DRAWING)
        result = Result(arm, scorer.score(drawn), drawn, seconds)
        about = {"task": "two", "concepts": 2, "scene": index, "nouns": "+".join(c.noun for c in concepts), "arm": arm}
        yield about | row_of(result) | kinds_of(result, scorer.identities, scorer.judge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("out/combining.csv"))
    parser.add_argument("--scenes", type=int, default=TASKS["two"].scenes, help="the first so many; default all")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th scene from the I-th on")
    parser.add_argument("--prompts", type=int, default=COUNT, help=f"of each kind; default {COUNT}")
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    record = Record(arguments.csv, {"prompts": arguments.prompts, **DRAWING})
    personalizer = Personalizer.from_pretrained("bundled")
    for index in share(arguments.scenes, arguments.part):
        missing = record.missing("two", index, ARMS)
        if missing:
            for row in run_scene(personalizer, index, arguments.prompts, missing):
                record.add(row)
    print(summary(record.rows))
    print("paired differences to merged, in brackets where not significant:")
    print(summary(record.rows, "merged"))


if __name__ == "__main__":
    main()
