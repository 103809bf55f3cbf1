"""Fit every method and ablation on the benchmark scenes of the bundled world, draw, and judge.

Ten prompts for each concept alone and ten for all together. Every arm has the same base model, steps, rows in a step,
seeds, noise and, if it has any, priors; where two concepts are of one class, also the true masks, without which nobody
could say which is which. Finished arms are kept in the CSV file and not fitted again, so the command may be interrupted
and repeated with the same settings; ``--part 1/2`` and ``--part 2/2`` share the scenes between two processes, each with
a file of its own. With ``--engine ray`` the fits are spread over a cluster; the file is the same.

Usage: python -m benchmarks.study --csv out/study.csv [--arms disendiff,dreambooth] [--task same-class] [--scenes 5]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.study.record import Record, share
from benchmarks.study.scenes import SCENES, Plan, run_scene
from benchmarks.study.summary import summary
from sdk import Personalizer, quiet
from sdk.comparison import UNTOUCHED, resolve_arms
from sdk.methods import METHODS, method_class
from sdk.miniworld import COUNT, SPLITS, TASKS
from sdk.runtime import keep_memory

VARIANTS = ("paper", *method_class("disendiff").variants)
ARMS = (
    UNTOUCHED,
    "disendiff:best",
    *METHODS,
    "attencraft:paper",
    "attencraft:best",
    *(f"disendiff:{name}" for name in VARIANTS),
)


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
        "--engine", choices=("here", "ray"), default="here", help="where fits run; default this process"
    )
    parser.add_argument("--address", help="of the Ray cluster; default one of this machine, begun for the study")
    parser.add_argument("--workers", type=int, help="fits at once on the cluster; default one a core")
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
    scenes = [
        (task, index)
        for task in arguments.task.split(",")
        for index in share(arguments.scenes or TASKS[task].scenes, arguments.part)
    ]
    wanted = [(*scene, missing) for scene in scenes if (missing := record.missing(*scene, arms))]
    if arguments.engine == "ray":
        from benchmarks.study.on_ray import run_on_ray

        fits = [(task, index, arm) for task, index, missing in wanted for arm in missing]
        for row in run_on_ray(arguments.base, fits, plan, arguments.address, arguments.workers):
            record.add(row)
    elif wanted:
        personalizer = Personalizer.from_pretrained(arguments.base)
        for task, index, missing in wanted:
            for row in run_scene(personalizer, missing, task, index, plan):
                record.add(row)
    print(summary(record.rows))


if __name__ == "__main__":
    main()
