"""What is measured of one arm on one scene, and intervals over scenes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdk.comparison import Result
from sdk.miniworld import Identity, Judge, likeness, text_alignment

LARGEST = 3  # concepts in a scene
MEASURES = ("fidelity", "leakage", "recognised", "clean", "once", "together", "text_alignment")
KINDS = ("together", *(str(i + 1) for i in range(LARGEST)))
COLUMNS = (
    "concepts",
    "scene",
    "nouns",
    "arm",
    "precision",
    *MEASURES,
    *(f"{what}_{kind}" for kind in KINDS for what in ("image", "text")),
    "seconds",
    "memory_mb",
)


def row_of(result: Result, identities: Sequence[Identity], judge: Judge) -> dict[str, float]:
    """Return the figures of a result: overall, and picture and text alignment by what the prompts ask for."""
    scores = result.scores
    row = {name: getattr(scores, name) for name in ("fidelity", "leakage", "together", "text_alignment")}
    row |= {
        name: sum(values) / len(values)
        for name in ("recognised", "clean", "once")
        for values in [getattr(scores, name)]
    }
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
    rounded = {name: round(float(value), 4) for name, value in row.items() if value is not None}
    return rounded | {"seconds": round(result.seconds, 1), "memory_mb": round(result.memory_mb)}


def interval(values: Sequence[float], draws: int = 10000) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval over scenes."""
    data = torch.tensor(values, dtype=torch.double)
    picks = torch.randint(len(data), (draws, len(data)), generator=torch.Generator().manual_seed(0))
    means = data[picks].mean(1).sort().values
    return data.mean().item(), means[int(0.025 * draws)].item(), means[int(0.975 * draws) - 1].item()
