"""How well do masks out of attention cover the true objects? Mean intersection over union on the benchmark scenes.

AttenCraft's masks as published, with and without self-attention, and this project's.

Usage: python -m benchmarks.study.masks [--split test]
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from benchmarks.study.measures import interval
from sdk import Concept, Personalizer, quiet
from sdk.masks import AttentionProbe, MaskOptions, overlap
from sdk.miniworld import SPLITS, TASKS, render, task_scene
from sdk.model import Denoiser, LatentCache, forward_dtype
from sdk.runtime import keep_memory

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
    keep_memory()
    personalizer = Personalizer.from_pretrained("bundled")
    pipe = personalizer.pipe
    dtype = forward_dtype(personalizer.default_config().precision, personalizer.device)
    print("| mean IoU with the true masks [95 % over scenes] | two concepts | three concepts |\n|---|---|---|")
    found: dict[str, list[str]] = {name: [] for name in VARIANTS}
    for task in ("two", "three"):
        values: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for index in range(TASKS[task].scenes):
            scene = task_scene(task, arguments.split, index)
            picture, true = render(scene)
            cells = (F.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16) >= 0.5).float()
            named = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
            conditioner = personalizer.conditioner([c.token for c in named])
            probe = AttentionProbe(Denoiser(personalizer, dtype=dtype), conditioner, named)
            latents = LatentCache(pipe.vae, personalizer.device).mean(picture)
            for name, options in VARIANTS.items():
                levels = torch.linspace(0.2, 0.8, options.draws).mul(options.noise).long().tolist()
                masks, _ = probe.masks_at(latents, levels, probe.noun_embeddings(), options)
                values[name].append(overlap(masks[:-1].cpu(), cells).mean().item())
        for name in VARIANTS:
            mean, low, high = interval(values[name])
            found[name].append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
    for name, cells_ in found.items():
        print(f"| {name} | " + " | ".join(cells_) + " |")


if __name__ == "__main__":
    main()
