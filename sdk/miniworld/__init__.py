"""The drawn world: pictures in which every attribute is known, a model of it and its judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .judge import Judge, bundled_judge
    from .references import BENCHMARK, SPLITS, demo_picture, reference_scene
    from .renderer import render
    from .scene import Scene, arrange
    from .scorer import Identity, JudgeScorer, likeness, text_alignment
    from .world_prompts import COUNT

_HOMES = {
    "BENCHMARK": ".references",
    "COUNT": ".world_prompts",
    "SPLITS": ".references",
    "Identity": ".scorer",
    "Judge": ".judge",
    "JudgeScorer": ".scorer",
    "Scene": ".scene",
    "arrange": ".scene",
    "bundled_judge": ".judge",
    "demo_picture": ".references",
    "likeness": ".scorer",
    "reference_scene": ".references",
    "render": ".renderer",
    "text_alignment": ".scorer",
}
__all__ = [
    "BENCHMARK",
    "COUNT",
    "SPLITS",
    "Identity",
    "Judge",
    "JudgeScorer",
    "Scene",
    "arrange",
    "bundled_judge",
    "demo_picture",
    "likeness",
    "reference_scene",
    "render",
    "text_alignment",
]
__getattr__ = public_names(__name__, _HOMES)
