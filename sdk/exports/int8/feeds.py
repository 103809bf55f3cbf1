"""What a drawing feeds the UNet: the data that ranges of integers are chosen by, and errors are measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...deploy.adapters import Adapter
from ...deploy.drawing import Drawing
from ...deploy.engines.graph import Bound, Graph
from ...deploy.model import ExportedModel
from ...deploy.samplers.choose import sampler
from ...deploy.samplers.noise import Noise
from ...runtime import Phase

_LEVELS = 8  # noise levels that are drawn at, from the first to the last
_GENERAL = ("a house", "a dog on the beach", "a red car in the snow", "a cat and a dog in a garden")
_PLACES = ("{}", "{} on the beach", "{} in the snow", "{} and a house")

Feeds = dict[str, np.ndarray]


class _Recorded(Graph):
    """A graph that remembers what it is fed."""

    def __init__(self, graph: Graph, found: list[Feeds]) -> None:
        self.graph, self.found, self.failures = graph, found, graph.failures
        self.path, self.inputs, self.optional, self.outputs = graph.path, graph.inputs, graph.optional, graph.outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.graph.run(feeds)

    def bound(self, fixed: Mapping[str, np.ndarray]) -> Bound:
        return _RecordedBound(self, dict(fixed))


class _RecordedBound(Bound):
    def __init__(self, graph: _Recorded, fixed: Feeds) -> None:
        self.graph, self.fixed = graph, fixed
        self.bound = graph.graph.bound(fixed)

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        given = {**self.fixed, **feeds}
        self.graph.found.append({n: np.array(v, self.graph.type_of(n)) for n, v in given.items()})
        return self.bound.run(feeds, outputs)


def prompts_for(pack: Any) -> list[str]:
    """Return prompts to draw, the last of which is for measuring: of the pack, if there is one, and general ones."""
    if pack is None:
        return list(_GENERAL)
    phrases = [concept.phrase for concept in pack.concepts]
    own = [place.format(f"a {phrases[i % len(phrases)]}") for i, place in enumerate(_PLACES)]
    return [*own[:2], *_GENERAL[:2], pack.prompt]


def feeds_of(model: ExportedModel, prompts: Sequence[str], adapter: Adapter | None) -> tuple[list[Feeds], list[Feeds]]:
    """Draw prompts and return what the UNet is fed: for choosing ranges, and, of the last prompt, for measuring.

    Args:
        model: the exported model.
        prompts: what to draw, a picture each, at all noise levels.
        adapter: the pack, of a shared folder.
    """
    found: list[Feeds] = []
    recorded = replace(model, graphs={**model.graphs, "unet": _Recorded(model.graphs["unet"], found)})
    side = model.resolution // model.cell
    steps = min(_LEVELS, model.steps)
    scale = float(model.about["guidance_scale"])
    behind = None
    if model.paints_over:  # as where nothing stays
        behind = np.concatenate([np.ones((1, 1, side, side)), np.zeros((1, model.channels, side, side))], 1)
    guided = scale > 1 and not model.guidance_width
    for seed, prompt in enumerate(prompts):
        drawing = Drawing(
            recorded,
            sampler(model.levels, None, steps, 1.0),
            scale,
            model.rescale,
            (model.channels, side, side),
            Phase("draw", steps, None, None),
            None,
            behind=None if behind is None else behind.astype(np.float32),
        )
        own = adapter if "<" in prompt else None
        drawing.batch([(own, "")] if guided else [], [(own, prompt)], [Noise(seed)])
    # Every second level of a prompt, the others of the next: a large model takes minutes for each.
    ranges = [fed for i, fed in enumerate(found[:-steps]) if (i + i // steps) % 2 == 0]
    return ranges, found[-steps:]
