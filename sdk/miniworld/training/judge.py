"""Train the judge on renders, half of them through the autoencoder and damaged latents, some redrawn by the base model.

Generated pictures carry the autoencoder's and the model's artefacts; a judge that has only seen clean renders would
count them as mistakes. Scenes come in groups of four: the same objects twice, at other places and in front of
other backgrounds, and twice again with one thing about each object changed. The identity vectors learn from them
what makes an object this object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from ..judge import Judge
from ..renderer import render
from ..scene import Scene, SceneObject, Vocabulary, arrange, is_reserved, sample_scene
from .calibration import exact_classes, fit_temperatures, measured_accuracy, same_threshold
from .common import cosine_schedule, default_device
from .pools import to_unit
from .redrawn import Redrawer, still_true

log = logging.getLogger(__name__)
IDENTITY_WEIGHT = 0.3
_SHARPNESS = 8.0  # of the softmax over other objects in the identity loss


def changed(item: SceneObject, rng: random.Random, vocabulary: Vocabulary) -> SceneObject:
    """Return the object with its colour, its accent or its pattern changed."""
    name = rng.choice(("colour", "accent", "pattern"))
    values = vocabulary.patterns if name == "pattern" else vocabulary.colours
    taken = {item.pattern} if name == "pattern" else {item.colour, item.accent}
    change: dict[str, Any] = {name: rng.choice([v for v in values if v not in taken])}
    return dataclasses.replace(item, **change)


def grouped_scenes(count: int, vocabulary: Vocabulary, seed: int, *, reserved: bool = False) -> list[Scene]:
    """Draw ``count`` scenes in groups of four, see the module's description.

    ``reserved`` asks for objects that are, or after the change are, of identities that :func:`is_reserved` keeps
    out of training; otherwise none is.
    """
    rng = random.Random(f"judge {seed}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        base = sample_scene(rng, vocabulary, split="all")
        others = [changed(item, rng, vocabulary) for item in base.objects]
        kept = [is_reserved(item.identity) for item in (*base.objects, *others)]
        if (not any(kept)) if not reserved else any(kept):
            for objects in (base.objects, base.objects, others, others):
                shuffled = rng.sample(list(objects), len(objects))
                worn = [dataclasses.replace(o, hat=rng.random() < vocabulary.hat) for o in shuffled]
                scenes.append(arrange(rng, worn, rng.choice(vocabulary.backgrounds), base.style))
    return scenes[:count]


def render_scenes(scenes: list[Scene], vocabulary: Vocabulary) -> tuple[Tensor, dict[str, Tensor]]:
    """Return pictures uint8 ``[B, 3, 64, 64]`` and their labels.

    Labels: ``presence``, ``hat`` float ``[B, C]``; ``place`` float ``[B, C, 16, 16]`` (share of each cell); ``colour``,
    ``accent``, ``pattern`` int ``[B, C]`` and ``background`` int ``[B]`` with -100 where they cannot be seen;
    ``sketch`` float ``[B]``; ``identity`` int ``[B, C]``, equal for equal objects, -1 where there is none to see.
    """
    count, classes = len(scenes), len(vocabulary.classes)
    pictures = np.empty((count, 64, 64, 3), np.uint8)
    labels = {name: torch.full((count, classes), -100) for name in ("colour", "accent", "pattern")}
    labels |= {name: torch.zeros(count, classes) for name in ("presence", "hat")}
    labels["place"] = torch.zeros(count, classes, 16, 16)
    labels["background"] = torch.full((count,), -100)
    labels["sketch"] = torch.zeros(count)
    labels["identity"] = torch.full((count, classes), -1)
    for row, scene in enumerate(scenes):
        image, masks = render(scene)
        pictures[row] = np.asarray(image)
        areas = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), 16)
        drawn = scene.style != "sketch"
        labels["sketch"][row] = float(not drawn)
        if drawn:
            labels["background"][row] = vocabulary.backgrounds.index(scene.background)
        for index, item in enumerate(scene.objects):
            slot = vocabulary.classes.index(item.noun)
            labels["presence"][row, slot] = 1.0
            labels["hat"][row, slot] = float(item.hat)
            labels["place"][row, slot] = areas[index]
            labels["pattern"][row, slot] = pattern = vocabulary.patterns.index(item.pattern)
            if drawn:
                colour, accent = vocabulary.colours.index(item.colour), vocabulary.colours.index(item.accent)
                labels["colour"][row, slot], labels["accent"][row, slot] = colour, accent
                labels["identity"][row, slot] = (colour * len(vocabulary.colours) + accent) * 3 + pattern
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), labels


@torch.no_grad()
def damaged(vae: AutoencoderKL, pictures: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return uint8 pictures after the autoencoder, with Gaussian noise of this deviation on the latents."""
    out = []
    for batch in pictures.split(64):
        latents = vae.encode(to_unit(batch).to(vae.device)).latent_dist.mode()
        latents = latents + noise * torch.randn(latents.shape, generator=generator).to(latents)
        decoded = vae.decode(latents).sample.clamp(-1, 1)
        out.append(((decoded + 1) * 127.5).round().to(torch.uint8).cpu())
    return torch.cat(out)


def damage_half(vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator) -> None:
    """Put every other thousand of the pictures, whole groups, through the autoencoder, with less noise or more."""
    for start in range(0, len(pictures), 2000):
        part = slice(start, start + 1000)
        pictures[part] = damaged(vae, pictures[part], 0.15 * (start % 6000) / 2000, generator)


def grouped_rows(pictures: Tensor, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw whole groups of four; return their rows ``[B]`` and pictures in [-1, 1] with a little noise."""
    groups = 4 * torch.randint(len(pictures) // 4, (batch_size // 4, 1), generator=generator)
    rows = (groups + torch.arange(4)).flatten()
    batch = to_unit(pictures[rows])
    return rows, batch + 0.04 * torch.randn(batch.shape, generator=generator)


def identity_loss(vectors: Tensor, identities: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, equation 2) among the objects of each class.

    Args:
        vectors: unit vectors ``[B, C, E]``.
        identities: int ``[B, C]``, -1 for none.

    Returns:
        Mean over objects that occur twice; a scalar.
    """
    losses = []
    for slot in range(vectors.shape[1]):
        rows = identities[:, slot] >= 0
        own, name = vectors[rows, slot], identities[rows, slot]
        alone = torch.eye(len(own), dtype=torch.bool, device=own.device)
        logits = (own @ own.T * _SHARPNESS).masked_fill(alone, -1e4)
        equal = (name[:, None] == name[None]) & ~alone
        share = logits.log_softmax(-1).masked_fill(~equal, 0).sum(-1) / equal.sum(-1).clamp(min=1)
        losses.append(-share[equal.any(-1)])
    return torch.cat(losses).mean() if sum(len(x) for x in losses) else vectors.sum() * 0


def judge_loss(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Sum of the cross-entropies; attributes count only for classes that are present.

    Args:
        logits: from :meth:`Judge.forward`.
        labels: from :func:`render_scenes`.
    """
    present = labels["presence"]
    loss = F.binary_cross_entropy_with_logits(logits["presence"], present)
    loss = loss + F.binary_cross_entropy_with_logits(logits["place"], labels["place"])
    loss = loss + F.binary_cross_entropy_with_logits(logits["sketch"], labels["sketch"])
    hats = F.binary_cross_entropy_with_logits(logits["hat"], labels["hat"], reduction="none")
    loss = loss + (hats * present).sum() / present.sum().clamp(min=1)
    loss = loss + F.cross_entropy(logits["background"], labels["background"])
    for name in ("colour", "accent", "pattern"):
        loss = loss + F.cross_entropy(logits[name].flatten(0, 1), labels[name].flatten())
    return loss + IDENTITY_WEIGHT * identity_loss(logits["identity"], labels["identity"])


def train(
    output: Path,
    model: Path,
    *,
    steps: int = 3000,
    batch_size: int = 64,
    pool_size: int = 20000,
    redrawn: int = 4000,
) -> None:
    """Train, calibrate and measure on held-out pictures, and write ``judge.*`` and ``accuracy.json``.

    Args:
        output: folder to write to.
        model: the base model, whose artefacts the judge must see through.
        steps: of the optimiser.
        batch_size: pictures in a step, a multiple of 4.
        pool_size: renders to draw from, a multiple of 2000.
        redrawn: pictures redrawn by the base model, in addition.
    """
    device = default_device()
    torch.manual_seed(0)
    vocabulary = Vocabulary(hat=0.3, sketch=0.1)
    redraw = Redrawer(model, device)
    vae = redraw.pipe.vae
    generator = torch.Generator().manual_seed(3)
    pictures, labels = render_scenes(grouped_scenes(pool_size, vocabulary, seed=1), vocabulary)
    damage_half(vae, pictures, generator)
    log.info("rendered %d scenes", pool_size)
    scenes = grouped_scenes(redrawn, vocabulary, seed=4)
    more, true = render_scenes(scenes, vocabulary)
    pictures = torch.cat([pictures, redraw(more, scenes, seed=4)])
    labels = {name: torch.cat([value, still_true(true)[name]]) for name, value in labels.items()}
    log.info("redrew %d scenes", redrawn)
    judge = Judge(vocabulary).to(device).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    begin = time.monotonic()
    for step in range(steps):
        rows, batch = grouped_rows(pictures, batch_size, generator)
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = judge(batch.contiguous(memory_format=torch.channels_last))
        loss = judge_loss({k: v.float() for k, v in logits.items()}, {k: v[rows].to(device) for k, v in labels.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 200 == 0:
            rate = (step + 1) * batch_size / (time.monotonic() - begin)
            log.info("step %d loss %.4f, %.0f samples/s", step + 1, loss.item(), rate)
    judge.eval().cpu()
    for seed, purpose in ((2, "calibrate"), (3, "measure")):  # identities that no training has shown
        scenes = grouped_scenes(2400, vocabulary, seed, reserved=True)
        clean, truth = render_scenes(scenes, vocabulary)
        through = damaged(vae, clean, 0.0, generator)
        if purpose == "calibrate":
            judge.temperatures = fit_temperatures(judge, through, truth)
            judge.same = same_threshold(judge, through, truth)
    few = slice(0, len(scenes) // 4)
    again = redraw(clean[few], scenes[few], seed=5)
    measured = {
        "renders": measured_accuracy(judge, clean, truth),
        "through the autoencoder": measured_accuracy(judge, through, truth),
        "redrawn by the model": {"exact classes": exact_classes(judge, again, {k: v[few] for k, v in truth.items()})},
    }
    log.info("held-out accuracy %s", json.dumps(measured, indent=2))
    judge.save(output)
    (output / "accuracy.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base model, a folder")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.output, arguments.model, steps=arguments.steps)


if __name__ == "__main__":
    main()
