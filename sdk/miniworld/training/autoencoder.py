"""Train the bundled model's autoencoder: 64x64 pictures to 16x16 latents.

Latents are normalised channel by channel at the end, folded into ``quant_conv`` and ``post_quant_conv``,
so that the diffusion model sees zero mean and unit variance and ``scaling_factor`` is 1. The decoder is then
polished alone: that leaves the latents, and a diffusion model that already learns them, as they are.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ..scene import Vocabulary
from .common import cosine_schedule, default_device, load_checkpoint, save_checkpoint
from .models import build_autoencoder
from .muon import Muon
from .pools import render_pool, to_unit

log = logging.getLogger(__name__)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Mean over pictures of the reconstruction's peak signal-to-noise ratio, in dB."""
    values = []
    for batch in pictures.split(64):
        target = to_unit(batch).to(vae.device)
        output = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
        error = F.mse_loss(output, target, reduction="none").mean((1, 2, 3))
        values.append(10 * torch.log10(4.0 / error))
    return torch.cat(values).mean().item()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Fold the latents' channel means and deviations into the two 1x1 convolutions around them."""
    modes = [vae.encode(to_unit(batch).to(vae.device)).latent_dist.mode() for batch in pictures.split(64)]
    latents = torch.cat(modes)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # the second half is the log-variance
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]


def train(output: Path, *, steps: int, batch_size: int = 16, pool: int = 12000, learning_rate: float = 2e-3) -> None:
    """Train for ``steps`` steps, resuming from ``output/checkpoint.pt`` if it is there."""
    device = default_device()
    torch.manual_seed(0)
    output.mkdir(parents=True, exist_ok=True)
    pictures = render_pool(pool, Vocabulary(), seed=1).pictures
    held_out = render_pool(256, Vocabulary(), seed=2, split="held_out", scaled=False).pictures
    vae = build_autoencoder().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=0.0)
    first = 0
    if (state := load_checkpoint(output / "checkpoint.pt")) is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    start = time.monotonic()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        batch = pictures[torch.randint(pool, (batch_size,), generator=generator)]
        target = to_unit(batch).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            output_picture = vae.decode(posterior.sample()).sample
        difference = output_picture.float() - target
        loss = difference.square().mean() + 0.2 * difference.abs().mean() + 1e-5 * posterior.kl().mean() / 2048
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * cosine_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 100 == 0:
            rate = (step + 1 - first) * batch_size / (time.monotonic() - start)
            log.info(
                "step %d loss %.5f psnr %.2f dB, %.0f samples/s", step + 1, loss.item(), psnr(vae, held_out[:64]), rate
            )
            save_checkpoint(
                output / "checkpoint.pt",
                {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
            )
    vae.eval()
    normalise_latents(vae, pictures[:2000])
    log.info("held-out psnr %.2f dB", psnr(vae, held_out))
    vae.save_pretrained(output / "vae")


def polish(output: Path, *, steps: int, batch_size: int = 16, pool: int = 24000, learning_rate: float = 1e-3) -> None:
    """Train the decoder of ``output/vae`` alone for ``steps`` steps; resumes from ``output/decoder.pt``."""
    device = default_device()
    vae = AutoencoderKL.from_pretrained(output / "vae").to(device, memory_format=torch.channels_last)
    pictures = render_pool(pool, Vocabulary(), seed=3).pictures
    held_out = render_pool(256, Vocabulary(), seed=2, split="held_out", scaled=False).pictures
    with torch.no_grad():
        latents = torch.cat([vae.encode(to_unit(b.to(device))).latent_dist.mode().half() for b in pictures.split(128)])
    log.info("held-out psnr %.2f dB before", psnr(vae, held_out))
    named = [*vae.decoder.named_parameters(), *vae.post_quant_conv.named_parameters()]
    matrices = [p for n, p in named if p.ndim > 1 and "conv_out" not in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, learning_rate, weight_decay=0.0),
        torch.optim.AdamW([p for n, p in named if p.ndim == 1 or "conv_out" in n], learning_rate, weight_decay=0.0),
    ]
    first = 0
    if (state := load_checkpoint(output / "decoder.pt")) is not None:
        vae.load_state_dict(state["vae"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    start = time.monotonic()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(pool, (batch_size,), generator=generator)
        target = to_unit(pictures[rows]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            decoded = vae.decode(latents[rows.to(device)].float()).sample
        loss = F.mse_loss(decoded.float(), target)
        vae.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate * cosine_schedule(step, steps)
            optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            rate = (step + 1 - first) * batch_size / (time.monotonic() - start)
            figure = psnr(vae, held_out[:64])
            log.info("step %d loss %.5f psnr %.2f dB, %.0f samples/s", step + 1, loss.item(), figure, rate)
            saved = {"vae": vae.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            save_checkpoint(output / "decoder.pt", saved)
    log.info("held-out psnr %.2f dB", psnr(vae, held_out))
    vae.eval().save_pretrained(output / "polished")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--polish", type=int, default=0, metavar="STEPS", help="then train the decoder alone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not (arguments.output / "vae").is_dir():
        train(arguments.output, steps=arguments.steps)
    if arguments.polish:
        polish(arguments.output, steps=arguments.polish)


if __name__ == "__main__":
    main()
