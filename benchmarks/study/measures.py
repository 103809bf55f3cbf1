"""What is measured of one arm on one scene, and intervals over scenes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F

from sdk import Concept
from sdk.comparison import Result
from sdk.eval import Drawn, Scores, expected
from sdk.miniworld import (
    Identity,
    InstanceScorer,
    Judge,
    JudgeScorer,
    likeness,
    overlaps,
    text_alignment,
)

LARGEST = 3  # concepts in a scene
FEWEST = 6  # scenes for a difference to be significant: with five of one sign even a sign test is not, at 5 % two-sided
MEASURES = ("fidelity", "leakage", "recognised", "clean", "once", "together", "text_alignment")
OBJECTS = ("missing", "doubled", "exchange", "collapse")  # of the judge that finds every object
AGAIN = ("fidelity", "leakage", "recognised", "once", "together")  # what both judges measure
KINDS = ("together", *(str(i + 1) for i in range(LARGEST)))
COLUMNS = (
    "task",
    "concepts",
    "scene",
    "nouns",
    "arm",
    "precision",
    "calibration",  # its weight, where a method has one
    *MEASURES,
    *OBJECTS,
    *(f"second_{name}" for name in AGAIN),
    *(f"{what}_{kind}" for kind in KINDS for what in ("image", "text")),
    "map_own",  # IoU of the modifiers' maps with their own objects after the fit
    "map_other",  # and the largest with another object
    "attempts",  # drawings of a picture, mean
    "agreement",  # share of the pictures that both judges find right, or both wrong
    "seconds",
    "memory_mb",
)


def row_of(result: Result) -> dict[str, float]:
    """Return the figures of a result, and what the fit took."""
    row = figures(result.scores, (*MEASURES, *OBJECTS))
    return row | {"seconds": round(result.seconds, 1), "memory_mb": round(result.memory_mb)}


def again_of(scores: Scores) -> dict[str, float]:
    """Return the second judge's figures of pictures that the first one measured, and what it alone sees."""
    return {f"second_{name}": value for name, value in figures(scores, AGAIN).items()} | figures(scores, OBJECTS)


def figures(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    """Return some of the scores by name, means where each concept has its own, without those not measured."""
    row = {}
    for name in names:
        value = getattr(scores, name)
        if isinstance(value, list):
            value = sum(value) / len(value) if value else None
        if value is not None:
            row[name] = round(float(value), 4)
    return row


def maps_of(maps: Sequence[torch.Tensor], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Return how much the modifiers' maps after a fit lie on their own and on other objects, means over concepts.

    Args:
        maps: of modifier and class word in turn, ``[2S, h, w]``; a cell belongs to a word above half of its range.
        masks: of the objects, bool ``[H, W]`` each.
    """
    modifiers = torch.stack(list(maps[0::2])).float().cpu()
    there = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(masks)).float(), modifiers.shape[-1]) > 0.5
    own, other = overlaps(modifiers[None], there[None])
    return {"map_own": round(own.mean().item(), 4), "map_other": round(other.mean().item(), 4)}


def taken(result: Result) -> dict[str, float]:
    """Return how often pictures were drawn, the mean, where someone looked at them."""
    counts = [count for item in result.drawn for count in item.attempts]
    return {"attempts": round(sum(counts) / len(counts), 3)} if counts else {}


def agreement(drawn: Sequence[Drawn], concepts: Sequence[Concept], first: JudgeScorer, second: InstanceScorer) -> float:
    """Return the share of the pictures on which two judges agree whether anything is wrong."""
    same: list[bool] = []
    for item in drawn:
        wanted = expected(item.prompt, concepts)
        both = (judge.faults(item.images, wanted) for judge in (first, second))
        same += [bool(one) == bool(other) for one, other in zip(*both, strict=True)]
    return round(sum(same) / len(same), 4)


def kinds_of(result: Result, identities: Sequence[Identity], judge: Judge) -> dict[str, float]:
    """Return picture and text alignment by what the prompts ask for."""
    row: dict[str, float] = {}
    every = tuple(range(len(identities)))
    for kind, asked in (("together", every), *((str(i + 1), (i,)) for i in every)):
        image, text = [], []
        for item in result.drawn:
            if item.asked == asked:
                verdict = judge.judge(item.images)
                image.append(torch.stack([likeness(verdict, identities[i]) for i in asked]).mean(0))
                text.append(text_alignment(verdict, item, identities, judge))
        if image:
            row |= {f"image_{kind}": torch.cat(image).mean().item(), f"text_{kind}": torch.cat(text).mean().item()}
    return {name: round(value, 4) for name, value in row.items()}


def interval(values: Sequence[float], draws: int = 10000) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval over scenes."""
    data = torch.tensor(values, dtype=torch.double)
    picks = torch.randint(len(data), (draws, len(data)), generator=torch.Generator().manual_seed(0))
    means = data[picks].mean(1).sort().values
    return fmean(values), means[int(0.025 * draws)].item(), means[int(0.975 * draws) - 1].item()
