"""How good a quantised UNet is: its errors at each noise level, and what a judge says of its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...deploy import OnnxPersonalizer
from ...deploy.samplers.levels import Levels
from ...errors import OutputError
from ...eval.drawing import Drawn
from ...eval.scorers import registered_scorers
from ...pack import ConceptPack
from .feeds import Feeds

MOST_DRIFT = 0.1  # where noise has 1
WORSE = 0.02  # share of pictures
_PROMPTS, _IMAGES = 12, 4  # that are judged: prompts for each concept and for all, pictures of each


def level_errors(model: Callable[[Feeds], Any], feeds: Sequence[Feeds], wanted: Sequence[np.ndarray]) -> list[float]:
    """Return the root mean square of a model's error for each feed; what it should predict has about 1.

    Args:
        model: a compiled one.
        feeds: what it is fed.
        wanted: what float32 gives.
    """
    pairs = zip(feeds, wanted, strict=True)
    return [float(np.sqrt(np.square(model(fed)["out_sample"] - right).mean())) for fed, right in pairs]


def drift_of(errors: Sequence[float], timesteps: Sequence[int], levels: Levels) -> float:
    """Return what errors add up to over a whole drawing.

    Latents at a noise level are ``cos(a) x + sin(a) noise``, and a step from ``a`` to ``b`` turns an error ``e`` of the
    predicted velocity into one of ``e sin(a - b)``; of predicted noise, into one of ``e / cos(a)`` times that.
    """
    cosines = np.sqrt(np.asarray(levels.alphas, float)[list(timesteps)])
    angles = [*np.arccos(cosines), 0.0]
    noise = "prediction_type" not in levels.about or levels.about.text("prediction_type") == "epsilon"
    steps = zip(errors, cosines, angles, angles[1:], strict=False)
    return float(sum(error / (cosine if noise else 1.0) * math.sin(max(a - b, 0.0)) for error, cosine, a, b in steps))


def judged(folder: Path, pack: ConceptPack | None, adapter: Path | None, trial: Path) -> dict[str, list[float]]:
    """Return shares of good pictures in float32 and in int8 by measure; empty where nobody can judge them.

    Args:
        folder: the exported folder.
        pack: whose concepts are drawn.
        adapter: of the pack, for a shared folder.
        trial: the same folder with the quantised UNet.

    Raises:
        OutputError: int8 is worse than float32.
    """
    if pack is None or pack.reference is None:
        return {}
    painters = [OnnxPersonalizer.from_pretrained(folder, engine="openvino", precision="fp32")]
    painters.append(OnnxPersonalizer.from_pretrained(trial, engine="openvino", precision="int8"))
    scorer = next((s for s in registered_scorers() if s.knows(pack.concepts, painters[0].model.resolution)), None)
    if scorer is None:
        return {}
    scorer.look_at(pack.reference, pack.concepts)
    prompts = scorer.prompts(pack.concepts, _PROMPTS)
    found: dict[str, list[float]] = {}
    for painter in painters:
        if adapter is not None:
            painter.add_pack("pack", adapter)
        images = painter.generate(
            [p.learned for p in prompts],
            concepts=None if adapter is None else "pack",
            num_images=_IMAGES,
            seed=0,
            num_inference_steps=20,
            scheduler="dpm++",
        ).images
        scores = scorer.score(
            [
                Drawn(p.learned, p.asked, p.background, images[i * _IMAGES : (i + 1) * _IMAGES])
                for i, p in enumerate(prompts)
            ]
        )
        means = {name: float(np.mean(v)) for name in ("recognised", "once") if (v := getattr(scores, name))}
        means |= {} if scores.together is None else {"together": float(scores.together)}
        for name, value in means.items():
            found.setdefault(name, []).append(round(value, 4))
    pairs = {name: (before, after) for name, (before, after) in found.items() if before - after > WORSE}
    worse = [f"{name} {after:.2f} instead of {before:.2f}" for name, (before, after) in pairs.items()]
    if worse:
        raise OutputError(f"pictures in int8 are worse ({', '.join(worse)}); export without int8, nothing was written")
    return found
