"""Print what a fit needs of a card's memory and how much it learns, by family; counted on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdk.families import CONFIGURATIONS, load_family
from sdk.fit import fit_memory, learned_numbers

ROWS = (1, 2, 4, 8)
MODELS = {
    "1.5, 512 pixels": ("sd1", CONFIGURATIONS["sd1"]),
    "2.1-base, 512 pixels": ("sd2", CONFIGURATIONS["sd2-base"]),
    "2.1, 768 pixels": ("sd2", CONFIGURATIONS["sd2"]),
    "XL, 1024 pixels": ("sdxl", CONFIGURATIONS["sdxl"]),
}


def beside(parts: dict) -> dict[str, Any]:
    """Text encoders, and the bytes of them and of the autoencoder in float16."""
    kinds = (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
    with torch.device("meta"):
        encoders = [kind(CLIPTextConfig(**parts[name])).half() for name, kind in kinds if name in parts]
        modules: list[nn.Module] = [AutoencoderKL.from_config(parts["vae"]), *encoders]
    return {"beside": 2 * sum(p.numel() for module in modules for p in module.parameters()), "encoders": encoders}


def main() -> None:
    print("| model | `gradient_checkpointing` | " + " | ".join(f"{rows} at once" for rows in ROWS) + " |")
    print("|---|---|" + "---:|" * len(ROWS))
    for name, (family, parts) in MODELS.items():
        others = beside(parts)
        for checkpointing in (False, True):
            needs = [
                fit_memory(
                    parts["unet"], family, dtype=torch.float16, rows=rows, checkpointing=checkpointing, **others
                ).total
                for rows in ROWS
            ]
            cells = " | ".join(f"{need / 1e9:.1f}" for need in needs)
            print(f"| {name} | {'on' if checkpointing else 'off'} | {cells} |")
    print("\n| model | K and V | million numbers | MB of a pack |\n|---|---|---:|---:|")
    for name, (family, parts) in MODELS.items():
        for rank in sorted({load_family(family).kv_rank or 0, 0}, reverse=True):
            learned = learned_numbers(parts["unet"], rank)
            print(f"| {name} | {f'rank {rank}' if rank else 'whole'} | {learned / 1e6:.1f} | {2 * learned / 1e6:.1f} |")


if __name__ == "__main__":
    main()
