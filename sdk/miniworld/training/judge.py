"""Train the judge on renders, half of them through the autoencoder and slightly damaged latents.

Generated pictures carry the autoencoder's artefacts; a judge that has only seen clean renders would count
them as mistakes of the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from ..judge import Judge, judge_loss
from ..scene import Vocabulary
from .common import Pool, cosine_schedule, default_device, render_pool, to_unit

log = logging.getLogger(__name__)


def labels_of(pool: Pool, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Return the labels of a pool in the form of :func:`sdk.miniworld.judge.judge_loss`."""
    count, classes = len(pool.scenes), len(vocabulary.classes)
    presence = torch.zeros(count, classes)
    place = torch.zeros(count, classes, 16, 16)
    attributes = {name: torch.full((count, classes), -100) for name in ("colour", "accent", "pattern")}
    background = torch.empty(count, dtype=torch.int64)
    areas = torch.cat([F.adaptive_avg_pool2d(m.float(), 16) for m in pool.masks.split(512)])
    for row, scene in enumerate(pool.scenes):
        background[row] = vocabulary.backgrounds.index(scene.background)
        for index, item in enumerate(scene.objects):
            slot = vocabulary.classes.index(item.noun)
            presence[row, slot] = 1.0
            place[row, slot] = areas[row, index]
            attributes["colour"][row, slot] = vocabulary.colours.index(item.colour)
            attributes["accent"][row, slot] = vocabulary.colours.index(item.accent)
            attributes["pattern"][row, slot] = vocabulary.patterns.index(item.pattern)
    return {"presence": presence, "place": place, "background": background, **attributes}


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


@torch.no_grad()
def accuracy(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """Return the share of right answers per attribute, over pictures ``[B, 3, 64, 64]`` uint8."""
    device = next(judge.parameters()).device
    parts = [judge.eval()(to_unit(batch).to(device)) for batch in pictures.split(128)]
    logits = {name: torch.cat([p[name].cpu() for p in parts]) for name in parts[0]}
    present = labels["presence"] > 0.5
    result = {
        "presence": ((logits["presence"] > 0) == present).float().mean().item(),
        "background": (logits["background"].argmax(-1) == labels["background"]).float().mean().item(),
    }
    for name in ("colour", "accent", "pattern"):
        result[name] = (logits[name].argmax(-1) == labels[name])[present].float().mean().item()
    return result


def train(output: Path, vae_folder: Path, *, steps: int = 2400, batch_size: int = 64, pool_size: int = 16000) -> None:
    """Train, measure on renders of held-out combinations, and write ``judge.*`` and ``accuracy.json``."""
    device = default_device()
    torch.manual_seed(0)
    vocabulary = Vocabulary()
    vae = AutoencoderKL.from_pretrained(vae_folder).to(device).eval()
    generator = torch.Generator().manual_seed(3)
    pool = render_pool(pool_size, vocabulary, seed=21, split="all", scaled=False)
    labels = labels_of(pool, vocabulary)
    for start in range(0, pool_size // 2, 1000):
        part = slice(start, start + 1000)
        pool.pictures[part] = damaged(vae, pool.pictures[part], 0.15 * (start % 3000) / 1000, generator)
    log.info("rendered %d scenes", pool_size)
    judge = Judge(vocabulary).to(device).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    begin = time.monotonic()
    for step in range(steps):
        rows = torch.randint(pool_size, (batch_size,), generator=generator)
        pictures = to_unit(pool.pictures[rows])
        pictures = (pictures + 0.04 * torch.randn(pictures.shape, generator=generator)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = judge(pictures.contiguous(memory_format=torch.channels_last))
        loss = judge_loss({k: v.float() for k, v in logits.items()}, {k: v[rows].to(device) for k, v in labels.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 200 == 0:
            log.info(
                "step %d loss %.4f, %.0f samples/s",
                step + 1,
                loss.item(),
                (step + 1) * batch_size / (time.monotonic() - begin),
            )
    held_out = render_pool(2000, vocabulary, seed=22, split="held_out", scaled=False)
    truth = labels_of(held_out, vocabulary)
    measured = {
        "renders": accuracy(judge, held_out.pictures, truth),
        "through the autoencoder": accuracy(judge, damaged(vae, held_out.pictures, 0.0, generator), truth),
    }
    log.info("held-out accuracy %s", measured)
    judge.eval().cpu().save(output)
    (output / "accuracy.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.output, arguments.vae, steps=arguments.steps)


if __name__ == "__main__":
    main()
