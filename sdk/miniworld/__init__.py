"""The drawn world: pictures in which every attribute is known, a model of it and its judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .gates import class_maps, overlaps
    from .instance_scorer import InstanceScorer
    from .instances import InstanceJudge, bundled_instance_judge
    from .judge import Judge, bundled_judge
    from .references import SPLITS, demo_picture, reference_scene
    from .renderer import render
    from .scene import Scene, arrange
    from .scorer import Identity, JudgeScorer, likeness, text_alignment
    from .tasks import TASKS, task_scene
    from .world_prompts import COUNT

_HOMES = {
    "COUNT": ".world_prompts",
    "SPLITS": ".references",
    "TASKS": ".tasks",
    "Identity": ".scorer",
    "InstanceJudge": ".instances",
    "InstanceScorer": ".instance_scorer",
    "Judge": ".judge",
    "JudgeScorer": ".scorer",
    "Scene": ".scene",
    "arrange": ".scene",
    "bundled_instance_judge": ".instances",
    "bundled_judge": ".judge",
    "class_maps": ".gates",
    "demo_picture": ".references",
    "likeness": ".scorer",
    "overlaps": ".gates",
    "reference_scene": ".references",
    "render": ".renderer",
    "task_scene": ".tasks",
    "text_alignment": ".scorer",
}
__all__ = [
    "COUNT",
    "SPLITS",
    "TASKS",
    "Identity",
    "InstanceJudge",
    "InstanceScorer",
    "Judge",
    "JudgeScorer",
    "Scene",
    "arrange",
    "bundled_instance_judge",
    "bundled_judge",
    "class_maps",
    "demo_picture",
    "likeness",
    "overlaps",
    "reference_scene",
    "render",
    "task_scene",
    "text_alignment",
]
__getattr__ = public_names(__name__, _HOMES)
