"""Train the judge that finds every object by itself, on renders, damaged renders and pictures redrawn by a base model.

As for the first judge, scenes come in groups of four (:mod:`sdk.miniworld.training.judge`), but of other numbers, with
two objects of one class in many; and another start.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..instances import CELLS, Found, InstanceJudge
from ..renderer import render
from ..scene import MAX_OBJECTS, Scene, Vocabulary
from .common import cosine_schedule, default_device
from .judge import damage_half, damaged, grouped_rows, grouped_scenes, identity_loss
from .pools import to_unit
from .redrawn import Redrawer

log = logging.getLogger(__name__)
IDENTITY_WEIGHT = 0.3
OFFSET_WEIGHT = 0.05  # a cell off costs as much as being 5 % unsure of a class
SPREAD = 2.0  # cells; standard deviation of the mark around an object's middle
NONE = -100


class Truth(NamedTuple):
    """What pictures show, by slot: objects from left to right, ``NONE`` where there are fewer or it cannot be seen.

    Attributes:
        region: bool ``[B, S, 32, 32]``.
        noun: class, int64 ``[B, S]``; likewise
        colour, accent, pattern, hat: ``[B, S]``.
        identity: equal for equal objects of a class, int64 ``[B, S]``.
        background: int64 ``[B]``.
    """

    region: Tensor
    noun: Tensor
    colour: Tensor
    accent: Tensor
    pattern: Tensor
    hat: Tensor
    identity: Tensor
    background: Tensor

    def of(self, rows: Tensor | slice) -> Truth:
        """Return that of some pictures."""
        return Truth(*(each[rows] for each in self))

    def redrawn(self) -> Truth:
        """Return what is still true of redrawn pictures: all but accents, patterns and identities."""
        free = {name: torch.full_like(self.accent, NONE) for name in ("accent", "pattern", "identity")}
        return self._replace(**free)


def render_truth(scenes: list[Scene], vocabulary: Vocabulary) -> tuple[Tensor, Truth]:
    """Return pictures uint8 ``[B, 3, 64, 64]`` and what they show."""
    count = len(scenes)
    pictures = np.empty((count, 64, 64, 3), np.uint8)
    region = torch.zeros(count, MAX_OBJECTS, CELLS, CELLS, dtype=torch.bool)
    value = {name: torch.full((count, MAX_OBJECTS), NONE) for name in Truth._fields[1:-1]}
    background = torch.full((count,), NONE)
    for row, scene in enumerate(scenes):
        image, masks = render(scene)
        pictures[row] = np.asarray(image)
        areas = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), CELLS) > 0.5
        region[row, : len(masks)] = areas
        drawn = scene.style != "sketch"
        if drawn:
            background[row] = vocabulary.backgrounds.index(scene.background)
        for slot, item in enumerate(scene.objects):
            value["noun"][row, slot] = vocabulary.classes.index(item.noun)
            value["hat"][row, slot] = int(item.hat)
            value["pattern"][row, slot] = pattern = vocabulary.patterns.index(item.pattern)
            if drawn:
                colour, accent = vocabulary.colours.index(item.colour), vocabulary.colours.index(item.accent)
                value["colour"][row, slot], value["accent"][row, slot] = colour, accent
                value["identity"][row, slot] = (colour * len(vocabulary.colours) + accent) * 3 + pattern
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    return tensor, Truth(region=region, **value, background=background)


def targets(truth: Truth, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the maps should say.

    Returns:
        Class of each cell, int64 ``[B, 32, 32]`` (``classes`` for none), marks of middles ``[B, 32, 32]`` in [0, 1],
        and offsets to the middle ``[B, 2, 32, 32]``, 0 where there is no object.
    """
    region = truth.region.float()
    axis = torch.arange(CELLS, dtype=torch.float32)
    area = region.sum((2, 3)).clamp(min=1)
    middle = torch.stack([(region.sum(3) @ axis) / area, (region.sum(2) @ axis) / area], -1)  # [B, S, 2]
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))  # [2, 32, 32]
    away = middle[..., None, None] - grid  # [B, S, 2, 32, 32]
    there = (truth.noun >= 0) & truth.region.any(-1).any(-1)
    mark = (-away.square().sum(2) / (2 * SPREAD**2)).exp() * there[..., None, None]
    kind = torch.full((len(region), CELLS, CELLS), classes)
    for slot in range(region.shape[1]):
        kind = torch.where(truth.region[:, slot], truth.noun[:, slot, None, None], kind)
    return kind, mark.amax(1), (away * region[:, :, None]).sum(1)


def loss_of(judge: InstanceJudge, pictures: Tensor, truth: Truth) -> Tensor:
    """Sum of what maps and looks cost; looks are read off the true regions."""
    seen = judge(pictures)
    kind, mark, offset = targets(truth, len(judge.vocabulary.classes))
    loss = F.cross_entropy(seen["kind"].float(), kind)
    loss = loss + F.binary_cross_entropy_with_logits(seen["middle"].float(), mark)
    off = (seen["offset"].float() - offset).abs().sum(1)
    on = kind < len(judge.vocabulary.classes)
    loss = loss + OFFSET_WEIGHT * (off * on).sum() / on.sum().clamp(min=1)
    loss = loss + F.cross_entropy(seen["background"].float(), truth.background)
    rows, slots = ((truth.noun >= 0) & truth.region.any(-1).any(-1)).nonzero(as_tuple=True)
    nouns = truth.noun[rows, slots]
    looks = judge.looks(seen["features"][rows], truth.region[rows, slots], nouns)
    for name in ("colour", "accent", "pattern"):
        loss = loss + F.cross_entropy(looks[name].float(), getattr(truth, name)[rows, slots])
    hats = truth.hat[rows, slots].float()
    loss = loss + F.binary_cross_entropy_with_logits(looks["hat"].float(), hats)
    # One line for each class, as the loss among objects of a class wants them.
    count = len(judge.vocabulary.classes)
    names = torch.full((len(rows), count), -1)
    names[torch.arange(len(rows)), nouns] = truth.identity[rows, slots].clamp(min=-1)
    vectors = looks["identity"][:, None].expand(-1, count, -1)
    return loss + IDENTITY_WEIGHT * identity_loss(vectors, names)


def matched(found: list[Found], truth: Truth, row: int) -> list[tuple[Found, int]]:
    """Pair what was found with what is there, each at most once, largest overlaps first; under a half nothing."""
    pairs = []
    for item in found:
        for slot in range(truth.region.shape[1]):
            region = truth.region[row, slot]
            overlap = (item.region & region).sum().item() / max(1, (item.region | region).sum().item())
            if overlap >= 0.5:
                pairs.append((overlap, id(item), item, slot))
    taken: set[int] = set()
    result = []
    for _, key, item, slot in sorted(pairs, key=lambda each: -each[0]):
        if key not in taken and slot - MAX_OBJECTS not in taken:
            taken |= {key, slot - MAX_OBJECTS}  # slots as negative numbers, which no id is
            result.append((item, slot))
    return result


def pairs_of_identities(judge: InstanceJudge, looked: list[list[Found]], truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the products of the vectors of every two matched objects of one class, and whether they are the same."""
    products, same = [], []
    kept: dict[int, list[tuple[Tensor, int]]] = {}
    for row, found in enumerate(looked):
        for item, slot in matched(found, truth, row):
            name, noun = int(truth.identity[row, slot]), int(truth.noun[row, slot])
            if name >= 0 and judge.vocabulary.classes[noun] == item.noun:
                kept.setdefault(noun, []).append((item.identity, name))
    for each in kept.values():
        vectors = torch.stack([vector for vector, _ in each])
        names = torch.tensor([name for _, name in each])
        upper = torch.triu_indices(len(each), len(each), 1)
        products.append((vectors @ vectors.T)[upper[0], upper[1]])
        same.append(names[upper[0]] == names[upper[1]])
    return torch.cat(products), torch.cat(same)


def accuracy(judge: InstanceJudge, looked: list[list[Found]], truth: Truth) -> dict[str, float]:
    """Return the shares of right answers: objects found, pictures exactly right, looks, and identities."""
    words = judge.vocabulary
    hits: dict[str, list[bool]] = {name: [] for name in ("colour", "accent", "pattern", "hat")}
    exact: list[bool] = []
    exact_alike: list[bool] = []
    objects: list[bool] = []
    for row, found in enumerate(looked):
        there = [words.classes[i] for i in truth.noun[row].tolist() if i >= 0]
        right = sorted(item.noun for item in found) == sorted(there)
        (exact if len(set(there)) == len(there) else exact_alike).append(right)
        pairs = matched(found, truth, row)
        objects += [True] * len(pairs) + [False] * (len(there) - len(pairs))
        for item, slot in pairs:
            for name, values in (("colour", words.colours), ("accent", words.colours), ("pattern", words.patterns)):
                value = int(getattr(truth, name)[row, slot])
                if value >= 0:
                    hits[name].append(getattr(item, name) == values[value])
            hits["hat"].append(item.hat == bool(truth.hat[row, slot]))
    shares = {"objects": objects, "exact": exact, "exact with two of one class": exact_alike, **hits}
    result = {name: sum(values) / len(values) for name, values in shares.items() if values}
    if (truth.identity >= 0).any():
        products, same = pairs_of_identities(judge, looked, truth)
        result["same recognised"] = (products[same] >= judge.same).double().mean().item()
        result["others taken for the same"] = (products[~same] >= judge.same).double().mean().item()
    return result


def threshold(judge: InstanceJudge, looked: list[list[Found]], truth: Truth) -> float:
    """Return the product at which as many same objects are missed as different ones are taken for the same."""
    products, same = pairs_of_identities(judge, looked, truth)
    candidates = torch.linspace(0, 1, 501)
    missed = torch.tensor([(products[same] < c).double().mean() for c in candidates])
    taken = torch.tensor([(products[~same] >= c).double().mean() for c in candidates])
    return round(candidates[(missed - taken).abs().argmin()].item(), 3)


def train(
    output: Path, model: Path, *, steps: int = 3200, batch_size: int = 64, pool_size: int = 20000, redrawn: int = 3000
) -> None:
    """Train, set the threshold and measure on held-out pictures; write ``instances.*`` and ``instances_accuracy.json``.

    Args:
        output: folder to write to.
        model: the base model, whose artefacts the judge must see through.
        steps: of the optimiser.
        batch_size: pictures in a step, a multiple of 4.
        pool_size: renders to draw from, a multiple of 2000.
        redrawn: pictures redrawn by the base model, in addition.
    """
    device = default_device()
    torch.manual_seed(11)
    vocabulary = Vocabulary(hat=0.3, sketch=0.1, alike=0.4)
    redraw = Redrawer(model, device)
    vae = redraw.pipe.vae
    generator = torch.Generator().manual_seed(13)
    pictures, truth = render_truth(grouped_scenes(pool_size, vocabulary, seed=11), vocabulary)
    damage_half(vae, pictures, generator)
    log.info("rendered %d scenes", pool_size)
    # Redrawn under their captions; the model need not know two of one class, so those are left out here.
    scenes = grouped_scenes(redrawn, Vocabulary(hat=0.3, sketch=0.1), seed=14)
    more, known = render_truth(scenes, vocabulary)
    pictures = torch.cat([pictures, redraw(more, scenes, seed=14)])
    truth = Truth(*(torch.cat(pair) for pair in zip(truth, known.redrawn(), strict=True)))
    log.info("redrew %d scenes", redrawn)
    judge = InstanceJudge(vocabulary).to(device).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1.5e-3, weight_decay=0.01)
    begin = time.monotonic()
    for step in range(steps):
        rows, batch = grouped_rows(pictures, batch_size, generator)
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(judge, batch.contiguous(memory_format=torch.channels_last), truth.of(rows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * cosine_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 200 == 0:
            rate = (step + 1) * batch_size / (time.monotonic() - begin)
            log.info("step %d loss %.4f, %.0f samples/s", step + 1, loss.item(), rate)
            judge.save(output)
    judge.eval().cpu()
    for seed, purpose in ((12, "threshold"), (13, "measure")):  # identities that no training has shown
        scenes = grouped_scenes(2400, vocabulary, seed, reserved=True)
        clean, known = render_truth(scenes, vocabulary)
        through = damaged(vae, clean, 0.0, generator)
        if purpose == "threshold":
            judge.same = threshold(judge, looked_at(judge, through), known)
    plain = grouped_scenes(600, Vocabulary(hat=0.3, sketch=0.1), 15, reserved=True)
    rendered, of_plain = render_truth(plain, vocabulary)
    again = redraw(rendered, plain, seed=15)
    measured = {
        "renders": accuracy(judge, looked_at(judge, clean), known),
        "through the autoencoder": accuracy(judge, looked_at(judge, through), known),
        "redrawn by the model": accuracy(judge, looked_at(judge, again), of_plain.redrawn()),
    }
    log.info("held-out accuracy %s", json.dumps(measured, indent=2))
    judge.save(output)
    (output / "instances_accuracy.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def looked_at(judge: InstanceJudge, pictures: Tensor) -> list[list[Found]]:
    """Return what is found in pictures uint8 ``[B, 3, 64, 64]``."""
    return [sight.objects for batch in pictures.split(64) for sight in judge.find(to_unit(batch))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base model, a folder")
    parser.add_argument("--steps", type=int, default=3200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.output, arguments.model, steps=arguments.steps)


if __name__ == "__main__":
    main()
