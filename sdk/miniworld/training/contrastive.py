"""Train a text encoder by contrast with pictures, as CLIP's was (Radford et al., 2021).

A caption's state at its end and a picture's vector are to point the same way where they belong together and not where
they do not. Nobody tells words their objects, and what fills a caption up behind its end is not looked at: the encoder
of the "natural" base, which a UNet then takes as it is.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..captions import write_caption
from ..scene import Vocabulary
from ..tokenizer import build_tokenizer
from .common import default_device, load_checkpoint, save_checkpoint, trapezoid_schedule
from .models import build_text_encoder
from .pools import Pool, collect_pool, submit_pool, to_unit, workers

log = logging.getLogger(__name__)
USES = 4  # how often each rendered scene is shown, with ever new captions
_HOTTEST = math.log(100)  # CLIP's bound of the temperature


class PictureEncoder(nn.Sequential):
    """A small convolutional network from pictures ``[B, 3, 64, 64]`` in [-1, 1] to vectors ``[B, width]``."""

    def __init__(self, width: int, channels: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        layers: list[nn.Module] = []
        before = 3
        for channel in channels:
            layers += [nn.Conv2d(before, channel, 3, 2, 1, bias=False), nn.BatchNorm2d(channel), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(channel, channel, 3, 1, 1, bias=False), nn.BatchNorm2d(channel), nn.ReLU(inplace=True)]
            before = channel
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * 16, width))


class Contrast(nn.Module):
    """Both encoders, the projection of the text's end, and the temperature.

    Args:
        text_encoder: whose states at the first end token stand for captions.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        width = text_encoder.config.hidden_size
        self.text, self.pictures = text_encoder, PictureEncoder(width)
        self.projection = nn.Linear(width, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        """Return the logits ``[B, B]`` of every caption (lines) with every picture (columns)."""
        said = F.normalize(self.projection(self.text(tokens).pooler_output).float(), dim=-1)
        seen = F.normalize(self.pictures(pictures).float(), dim=-1)
        return self.scale.clamp(max=_HOTTEST).exp() * said @ seen.T


def contrastive_loss(logits: Tensor) -> Tensor:
    """Mean of the cross-entropies of finding each caption's picture and each picture's caption; a scalar."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def batch_of(tokenizer: CLIPTokenizer, pool: Pool, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Return tokens ``[B, T]`` and pictures ``[B, 3, 64, 64]``; batch ``step`` is the same in every run."""
    rng = random.Random(step)
    rows = rng.sample(range(len(pool.scenes)), size)
    captions = [write_caption(pool.scenes[row], rng, prefix=pool.prefixes[row]).text for row in rows]
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return tokens, to_unit(pool.pictures[rows])


def train(
    output: Path,
    *,
    steps: int,
    vocabulary: Vocabulary,
    batch_size: int = 256,
    pool_size: int = 24000,
    learning_rate: float = 1e-3,
    stop_after: float | None = None,
) -> None:
    """Train for ``steps`` steps, resuming from ``output/checkpoint.pt``; write the encoder to ``output/text_encoder``.

    Args:
        output: folder of the checkpoint and the result.
        steps: length of the schedule; it may be raised until the decay has begun.
        vocabulary: what scenes are made of.
        batch_size: pairs a step; a pair's others are what it is told apart from.
        pool_size: number of scenes rendered at a time.
        learning_rate: AdamW's.
        stop_after: seconds after which to save and stop, to be resumed.
    """
    device = default_device()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    contrast = Contrast(build_text_encoder(tokenizer, words_apart=False)).to(device).train()
    optimizer = torch.optim.AdamW(contrast.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"contrast": contrast, "adamw": optimizer}
    checkpoint = load_checkpoint(output / "checkpoint.pt")
    first = 0
    if checkpoint is not None:
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        first = checkpoint["step"]
    pool_steps = USES * pool_size // batch_size
    begin = start = time.monotonic()
    with workers() as executor:
        for step in range(first, steps):
            if step == first or step % pool_steps == 0:
                pool = collect_pool(submit_pool(executor, pool_size, vocabulary, 1000 + step // pool_steps))
            tokens, pictures = batch_of(tokenizer, pool, batch_size, step)
            pictures = pictures.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                logits = contrast(tokens.to(device), pictures)
            loss = contrastive_loss(logits)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(contrast.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * trapezoid_schedule(step, steps)
            optimizer.step()
            done = step + 1 == steps or (stop_after is not None and time.monotonic() - begin > stop_after)
            if (step + 1) % 50 == 0:
                found = (logits.argmax(-1).cpu() == torch.arange(batch_size)).double().mean().item()
                rate = 50 * batch_size / (time.monotonic() - start)
                start = time.monotonic()
                log.info("step %d loss %.4f found %.3f, %.0f pairs/s", step + 1, loss.item(), found, rate)
            if (step + 1) % 500 == 0 or done:
                saved = {name: part.state_dict() for name, part in parts.items()}
                save_checkpoint(output / "checkpoint.pt", saved | {"step": step + 1})
                contrast.text.save_pretrained(output / "text_encoder")
            if done:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--alike", type=float, default=0.0, help="share of scenes with two objects of one class")
    parser.add_argument("--stop-after", type=float, help="seconds; the next call goes on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        arguments.output,
        steps=arguments.steps,
        vocabulary=Vocabulary(alike=arguments.alike),
        stop_after=arguments.stop_after,
    )


if __name__ == "__main__":
    main()
