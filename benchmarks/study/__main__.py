"""Fit every method and ablation on the benchmark scenes of the bundled world, draw, and judge.

Ten prompts for each concept alone and ten for all together. Every arm has the same base model, steps, rows in a step,
seeds, noise and, if it has any, priors; where two concepts are of one class, also the true masks, without which nobody
could say which is which. Finished arms are kept in the CSV file and not fitted again, so the command may be interrupted
and repeated with the same settings; ``--part 1/2`` and ``--part 2/2`` share the scenes between two processes, each with
a file of its own.

Usage: python -m benchmarks.study --csv out/study.csv [--arms disendiff,dreambooth] [--task same-class] [--scenes 5]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.study.measures import again_of, agreement, kinds_of, maps_of, row_of, taken
from benchmarks.study.record import Record, share
from benchmarks.study.summary import summary
from sdk import Concept, Personalizer, quiet
from sdk.comparison import UNTOUCHED, Result, resolve_arms, run_arm
from sdk.eval import PackChecker, draw_for
from sdk.fit import StepReport
from sdk.methods import METHODS, method_class
from sdk.miniworld import COUNT, SPLITS, TASKS, InstanceScorer, JudgeScorer, bundled_instance_judge, render, task_scene
from sdk.model import forward_dtype
from sdk.runtime import keep_memory
from sdk.sampling import Attempts

VARIANTS = ("paper", *method_class("disendiff").variants)
ARMS = (
    UNTOUCHED,
    "disendiff:best",
    *METHODS,
    "attencraft:paper",
    "attencraft:best",
    *(f"disendiff:{name}" for name in VARIANTS),
)
SCENES = 1000  # of a task at most, so that no two fits have a seed in common


@dataclass(frozen=True)
class Plan:
    """What a study does with every scene.

    Attributes:
        split: of the scenes.
        prompts: of each kind.
        common: how pictures are drawn.
        settings: of every fit, on top of what each arm says.
        attempts: drawings of a picture at most; above 1 the first judge chooses and the second alone measures.
        seed: 1, 2, ... are further fits of the same scenes.
    """

    split: str
    prompts: int
    common: dict[str, Any]
    settings: dict[str, Any]
    attempts: int = 1
    seed: int = 0


def run_scene(personalizer: Personalizer, arms: list[str], task: str, index: int, plan: Plan) -> Iterator[dict]:
    """Yield one row per arm of one scene."""
    scene = task_scene(task, plan.split, index)
    picture, true = render(scene)
    masks = [Image.fromarray(mask).convert("L") for mask in true]
    resolved = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
    one_class = TASKS[task].one_class
    second = InstanceScorer(bundled_instance_judge())
    second.look_at(picture, resolved, masks)
    first = None if one_class else JudgeScorer()
    if first is not None:
        first.look_at(picture, resolved)
    scorer = second if first is None or plan.attempts > 1 else first
    wanted = scorer.prompts(resolved, plan.prompts)
    chooses = Attempts(plan.attempts, PackChecker(personalizer)) if plan.attempts > 1 else Attempts()
    for name in arms:
        row: dict[str, Any] = {"task": task, "concepts": len(resolved), "scene": index}
        row |= {"nouns": "+".join(c.noun for c in resolved), "arm": name, "precision": ""}
        maps: list[torch.Tensor] = []

        def last(step: StepReport, maps: list[torch.Tensor] = maps) -> None:
            if step.step == step.steps:
                maps.extend(step.looks.maps())

        if name == UNTOUCHED:
            drawn = draw_for(personalizer, wanted, None, **plan.common)
            result = Result(UNTOUCHED, scorer.score(drawn), drawn)
        else:
            (arm,) = resolve_arms([name])
            given = masks if one_class else None
            common = plan.common | {"attempts": chooses}
            fit = (arm, picture, resolved, scorer, wanted, common, plan.settings)
            result = run_arm(personalizer, *fit, seed=index + SCENES * plan.seed, masks=given, callback=last)
            assert result.pack is not None
            dtype = forward_dtype(result.pack.settings["precision"], personalizer.device)
            row["precision"] = str(dtype).removeprefix("torch.")
            row["calibration"] = result.pack.settings.get("disendiff", {}).get("calibration_weight", "")
        row |= row_of(result) | (maps_of(maps, true) if maps else {})
        if first is not None and scorer is first:
            row |= kinds_of(result, first.identities, first.judge) | again_of(second.score(result.drawn))
        if first is not None and name != UNTOUCHED:
            row["agreement"] = agreement(result.drawn, resolved, first, second)
        yield row | taken(result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("out/study.csv"))
    parser.add_argument("--arms", default=",".join(ARMS), help="default: all")
    parser.add_argument("--task", default=",".join(TASKS), help="default: all, %(default)s")
    parser.add_argument("--base", default="bundled", help="a model of the drawn world; default the bundled one")
    parser.add_argument("--scenes", type=int, help="the first so many of each; default all")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th scene from the I-th on")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--prompts", type=int, default=COUNT, help=f"of each kind; default {COUNT}")
    parser.add_argument("--images", type=int, default=1, help="pictures per prompt")
    parser.add_argument("--seed", type=int, default=0, help="1, 2, ...: further fits and pictures of the same scenes")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; default: the base model's")
    parser.add_argument(
        "--attempts", type=int, default=1, help="drawings of a picture; the first judge chooses, the second measures"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a number or a JSON list; or GROUP.NAME=VALUE"
    )
    return parser.parse_args()


def value_of(text: str) -> Any:
    """Read a number, or JSON: a list of texts such as ``["{all} in the snow"]``."""
    if text.startswith("["):
        return json.loads(text)
    return float(text) if "." in text or "e" in text else int(text)


def in_groups(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose names have dots, such as ``disendiff.calibration_weight``, as groups of settings."""
    grouped: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, last = name.split(".")
        place = grouped
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return grouped


def main() -> None:
    arguments = parse()
    quiet()
    keep_memory()
    arms = arguments.arms.split(",")
    resolve_arms([name for name in arms if name != UNTOUCHED] or None)
    unknown = set(arguments.task.split(",")) - TASKS.keys()
    if unknown:
        raise SystemExit(f"no task {', '.join(sorted(unknown))}; choose from {', '.join(TASKS)}")
    settings = in_groups({k: value_of(v) for k, v in (s.split("=", 1) for s in arguments.set)})
    if arguments.attempts > 1 and any(TASKS[task].one_class for task in arguments.task.split(",")):
        raise SystemExit("--attempts is for tasks with concepts of different classes: one judge alone knows the others")
    common = {"num_images": arguments.images, "num_inference_steps": 25, "seed": SCENES * (1 + arguments.seed)}
    common |= {} if arguments.guidance is None else {"guidance_scale": arguments.guidance}
    plan = Plan(arguments.split, arguments.prompts, common, settings, arguments.attempts, arguments.seed)
    conditions = {"split": arguments.split, "prompts": arguments.prompts, "fit": settings, **common}
    if arguments.base != "bundled":
        conditions["base"] = Path(arguments.base).name
    if arguments.attempts > 1:
        conditions["attempts"] = arguments.attempts
    record = Record(arguments.csv, conditions)
    personalizer = Personalizer.from_pretrained(arguments.base)
    for task in arguments.task.split(","):
        for index in share(arguments.scenes or TASKS[task].scenes, arguments.part):
            missing = record.missing(task, index, arms)
            if missing:
                for row in run_scene(personalizer, missing, task, index, plan):
                    record.add(row)
    print(summary(record.rows))


if __name__ == "__main__":
    main()
