"""One scene of a study: every arm fits it, draws, and is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from benchmarks.study.measures import again_of, agreement, kinds_of, maps_of, row_of, taken
from sdk import Concept, Personalizer
from sdk.comparison import UNTOUCHED, Result, resolve_arms, run_arm
from sdk.eval import PackChecker, draw_for
from sdk.fit import StepReport
from sdk.miniworld import TASKS, InstanceScorer, JudgeScorer, bundled_instance_judge, render, task_scene
from sdk.model import forward_dtype
from sdk.sampling import Attempts

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
