"""How well do masks out of attention cover the true objects? Mean intersection over union on the benchmark scenes.

AttenCraft's masks as published, with and without self-attention, and this project's.

Usage: python -m benchmarks.study.masks [--split test]
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from benchmarks.study.measures import interval
from sdk import Personalizer
from sdk.commands.common import quiet
from sdk.concepts import resolve_concepts
from sdk.learner import Learner
from sdk.looking import masks_at
from sdk.masks import overlap
from sdk.miniworld.references import BENCHMARK, SPLITS, reference_scene
from sdk.miniworld.render import render
from sdk.options import MaskOptions
from sdk.targets import LatentCache

PUBLISHED = {"margin": 0.1, "background": 0.0, "draws": 1, "noise": 300}
VARIANTS = {
    "AttenCraft as published: self-attention to the 4th power": MaskOptions(power=4, **PUBLISHED),
    "the same without self-attention": MaskOptions(power=0, **PUBLISHED),
    "ours: self-attention once, a flat background": MaskOptions(),
    "ours without self-attention": MaskOptions(power=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, default="test")
    arguments = parser.parse_args()
    quiet()
    personalizer = Personalizer.from_pretrained("bundled")
    pipe = personalizer.pipe
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    print("| mean IoU with the true masks [95 % over scenes] | two concepts | three concepts |\n|---|---|---|")
    found: dict[str, list[str]] = {name: [] for name in VARIANTS}
    for concepts, scenes in sorted(BENCHMARK.items()):
        values: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for index in range(scenes):
            scene = reference_scene(arguments.split, index, concepts)
            picture, true = render(scene)
            cells = (F.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16) >= 0.5).float()
            resolved = resolve_concepts([item.noun for item in scene.objects])
            learner = Learner(pipe, resolved, personalizer.default_config(), scheduler, personalizer.device)
            latents = LatentCache(pipe.vae, personalizer.device).sample(0, picture, torch.zeros(1))
            for name, options in VARIANTS.items():
                levels = torch.linspace(0.2, 0.8, options.draws).mul(options.noise).long().tolist()
                masks, _ = masks_at(learner, latents, levels, learner.noun_embeddings(), options)
                values[name].append(overlap(masks[:-1].cpu(), cells).mean().item())
        for name in VARIANTS:
            mean, low, high = interval(values[name])
            found[name].append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
    for name, cells_ in found.items():
        print(f"| {name} | " + " | ".join(cells_) + " |")


if __name__ == "__main__":
    main()
