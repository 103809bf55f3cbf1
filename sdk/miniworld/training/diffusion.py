"""Train the bundled model's text encoder and UNet on latents of rendered scenes.

First the text encoder alone learns, for half a minute, to keep track of what is said about each object. Then both
learn to denoise. A grounding term asks that the attention of the words that describe an object covers that object;
it fades away, so that the finished model's maps are what denoising made of them.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from concurrent.futures import Executor
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ...families.layers import map_layers
from ...unet.attention import MapRecorder, recording_processors
from ..captions import Caption, write_caption
from ..gates import measure_maps, measure_words
from ..scene import Vocabulary, sample_scene
from ..tokenizer import MAX_LENGTH, build_tokenizer
from .common import AveragedWeights, default_device, load_checkpoint, save_checkpoint, trapezoid_schedule
from .losses import Reading, confusion_loss, grounding_loss
from .models import build_scheduler, build_text_encoder, build_unet, write_model
from .muon import Muon
from .pools import Pool, collect_pool, submit_pool, to_unit, workers

log = logging.getLogger(__name__)
CAPTION_DROPOUT = 0.1  # classifier-free guidance needs the empty caption
CONFUSION_WEIGHT = 0.5
READING_WEIGHT = 0.05
GROUNDING_UNTIL = 0.5  # share of the training after which grounding has faded away
USES = 4  # how often each rendered scene is shown, with ever new captions and noise


class Texts:
    """Captions as tensors: token ids ``[B, T]``, owners ``[B, T]`` (-1 for none) and reading labels ``[B, 4, T]``."""

    def __init__(self, tokenizer: CLIPTokenizer, captions: list[Caption]) -> None:
        texts = [caption.text for caption in captions]
        self.tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        self.owners = torch.full((len(texts), MAX_LENGTH), -1)
        self.labels = torch.full((len(texts), len(Reading.VALUES), MAX_LENGTH), -100)
        for row, caption in enumerate(captions):
            words = slice(1, 1 + len(caption.owners))  # every word is one token, after the start
            self.owners[row, words] = torch.tensor(caption.owners, dtype=torch.int64)
            if caption.owners:
                self.labels[row, :, words] = torch.tensor(Reading.labels(caption.text.split(), caption.owners))

    def to(self, device: torch.device) -> Texts:
        self.tokens, self.owners, self.labels = (x.to(device) for x in (self.tokens, self.owners, self.labels))
        return self


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool) -> Tensor:
    """Return the latents of a pool's pictures, float16 ``[count, C, 16, 16]``."""
    batches = [vae.encode(to_unit(b.to(vae.device))).latent_dist.mode().half() for b in pool.pictures.split(256)]
    return torch.cat(batches)


class Batches:
    """Random batches of a pool; batch ``i`` is the same in every run."""

    def __init__(self, tokenizer: CLIPTokenizer, pool: Pool, vae: AutoencoderKL, batch_size: int):
        self.tokenizer, self.pool, self.batch_size = tokenizer, pool, batch_size
        self.latents = encode_pool(vae, pool)
        masks = [F.adaptive_avg_pool2d(m.to(vae.device).float(), 16).half() for m in pool.masks.split(512)]
        self.masks = torch.cat(masks).flatten(2)

    def __getitem__(self, step: int) -> tuple[Tensor, Texts, Tensor]:
        """Return latents ``[B, C, 16, 16]``, captions, and word masks ``[B, T, 256]``."""
        rng = random.Random(step)
        rows = [rng.randrange(len(self.pool.scenes)) for _ in range(self.batch_size)]
        captions = [
            Caption("", ())
            if rng.random() < CAPTION_DROPOUT
            else write_caption(self.pool.scenes[row], rng, prefix=self.pool.prefixes[row])
            for row in rows
        ]
        texts = Texts(self.tokenizer, captions).to(self.latents.device)
        index = torch.tensor(rows, device=self.latents.device)
        owners = texts.owners[:, :, None].expand(-1, -1, self.masks.shape[2])
        masks = self.masks[index].float().gather(1, owners.clamp(min=0)) * (owners >= 0)
        return self.latents[index].float(), texts, masks


class Pools:
    """One pool after another, each used for ``steps`` training steps; the next is drawn meanwhile on a GPU."""

    def __init__(self, executor: Executor, vocabulary: Vocabulary, count: int, steps: int, *, ahead: bool) -> None:
        self.executor, self.vocabulary, self.count, self.steps, self.ahead = executor, vocabulary, count, steps, ahead
        self.tasks: dict[int, list] = {}

    def _submit(self, index: int) -> list:
        return self.tasks.pop(index, None) or submit_pool(self.executor, self.count, self.vocabulary, 1000 + index)

    def get(self, index: int) -> Pool:
        tasks = self._submit(index)
        if self.ahead:
            self.tasks[index + 1] = self._submit(index + 1)
        return collect_pool(tasks)


def teach_reading(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, reading: Reading, *, steps: int = 500, batch_size: int = 128
) -> None:
    """Train the text encoder on captions alone to know what was said about which object."""
    rng = random.Random("reading")
    vocabulary = Vocabulary()
    parameters = [*encoder.parameters(), *reading.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    for step in range(steps):
        captions = [write_caption(sample_scene(rng, vocabulary), rng) for _ in range(batch_size)]
        texts = Texts(tokenizer, captions).to(encoder.device)
        states = encoder(texts.tokens)[0]
        loss = reading(states, texts.labels) + CONFUSION_WEIGHT * confusion_loss(states, texts.owners)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * trapezoid_schedule(step, steps)
        optimizer.step()
        if (step + 1) % 100 == 0:
            log.info("text step %d loss %.4f", step + 1, loss.item())


def stratified_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """One timestep out of each of ``count`` equal parts of 0..999, in random order: less noise in the gradient."""
    parts = torch.randperm(count, generator=generator)
    return ((parts + torch.rand(count, generator=generator)) * (1000 / count)).long().clamp(max=999)


def train(
    output: Path,
    vae_folder: Path,
    *,
    steps: int,
    batch_size: int = 48,
    pool_size: int = 24000,
    learning_rate: float = 3e-3,
    text_learning_rate: float = 4e-4,
    grounding: float = 0.03,
    stop_after: float | None = None,
) -> None:
    """Train for ``steps`` steps, resuming from ``output/checkpoint.pt``; write the pipeline to ``output/model``.

    Args:
        output: folder of the checkpoint and the result.
        vae_folder: a trained autoencoder.
        steps: length of the schedule in optimiser steps; it may be raised until the decay has begun.
        batch_size: pictures per step.
        pool_size: number of scenes rendered at a time.
        learning_rate: of the UNet, in AdamW's scale.
        text_learning_rate: of the text encoder.
        grounding: weight of the grounding term at the start; it falls to 0 in a line.
        stop_after: seconds after which to save and stop, to be resumed.
    """
    device = default_device()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vocabulary, tokenizer, scheduler = Vocabulary(), build_tokenizer(), build_scheduler()
    vae = AutoencoderKL.from_pretrained(vae_folder).to(device).eval()
    text_encoder = build_text_encoder(tokenizer).to(device).train()
    reading = Reading(text_encoder.config.hidden_size).to(device)
    unet = build_unet(vae.config.latent_channels, text_encoder.config.hidden_size)
    unet = unet.to(device, memory_format=torch.channels_last).train()
    recorder = MapRecorder()
    for name, processor in recording_processors(unet, recorder, map_layers(unet)).items():
        unet.get_submodule(name).set_processor(processor)
    checkpoint = load_checkpoint(output / "checkpoint.pt")
    if checkpoint is None:
        teach_reading(tokenizer, text_encoder, reading)
    averaged_unet, averaged_text = AveragedWeights(unet, 0.999), AveragedWeights(text_encoder, 0.999)
    ends = ("conv_in.weight", "conv_out.weight")
    matrices = [p for n, p in unet.named_parameters() if p.ndim > 1 and n not in ends]
    rest = [p for n, p in unet.named_parameters() if p.ndim <= 1 or n in ends]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, learning_rate),
        torch.optim.AdamW(
            [
                {"params": rest, "lr": learning_rate / 2},
                {"params": [*text_encoder.parameters(), *reading.parameters()], "lr": text_learning_rate},
            ],
            betas=(0.9, 0.99),
            weight_decay=0.01,
        ),
    ]
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    parts = {
        "unet": unet,
        "text_encoder": text_encoder,
        "reading": reading,
        "averaged_unet": averaged_unet.module,
        "averaged_text": averaged_text.module,
        "muon": optimizers[0],
        "adamw": optimizers[1],
    }
    first = 0
    if checkpoint is not None:
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        first = checkpoint["step"]
        averaged_unet.updates = averaged_text.updates = first
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]  # new ones after a resume
    all_words = torch.arange(MAX_LENGTH, device=device).expand(batch_size, -1)
    pool_steps = USES * pool_size // batch_size
    running = torch.zeros(3, device=device)
    begin = start = time.monotonic()
    with workers() as executor:
        pools = Pools(executor, vocabulary, pool_size, pool_steps, ahead=device.type == "cuda")
        for step in range(first, steps):
            if step == first or step % pool_steps == 0:
                batches = Batches(tokenizer, pools.get(step // pool_steps), vae, batch_size)
                log.info("rendered and encoded %d scenes", pool_size)
            latents, texts, masks = batches[step]
            generator = torch.Generator().manual_seed(step)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            timesteps = stratified_timesteps(batch_size, generator).to(device)
            noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
            strength = grounding * max(0.0, 1 - step / (GROUNDING_UNTIL * steps))
            recorder.start(all_words if strength else None)
            with torch.autocast(device.type, torch.bfloat16):
                states = text_encoder(texts.tokens)[0]
                prediction = unet(noisy, timesteps, states).sample
            loss = F.mse_loss(prediction.float(), scheduler.get_velocity(latents, noise, timesteps))
            ground = grounding_loss(recorder.mean().flatten(2), masks) if strength else loss.new_zeros(())
            read = reading(states, texts.labels)
            total = loss + strength * ground + READING_WEIGHT * read
            total = total + CONFUSION_WEIGHT * confusion_loss(states, texts.owners)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * trapezoid_schedule(step, steps)
            for optimizer in optimizers:
                optimizer.step()
            averaged_unet.update(unet)
            averaged_text.update(text_encoder)
            seen = torch.stack([loss, ground, read]).detach()
            running = seen if step == first else running.lerp(seen, 0.02)
            done = step + 1 == steps or (stop_after is not None and time.monotonic() - begin > stop_after)
            if (step + 1) % 100 == 0:
                rate = 100 * batch_size / (time.monotonic() - start)
                start = time.monotonic()
                figures = running.tolist()
                log.info("step %d loss %.4f grounding %.4f reading %.4f, %.1f samples/s", step + 1, *figures, rate)
            if (step + 1) % 1000 == 0 or done:
                saved = {name: part.state_dict() for name, part in parts.items()}
                save_checkpoint(output / "checkpoint.pt", saved | {"step": step + 1})
                recorder.start(None)
                text, denoiser = averaged_text.module, averaged_unet.module
                change, cosine = measure_words(tokenizer, text, vocabulary)
                own, other = measure_maps(tokenizer, text, denoiser, vae, scheduler, vocabulary)
                log.info("gates: colour %.2f noun cosine %.2f, own IoU %.3f other %.3f", change, cosine, own, other)
                write_model(output / "model", vae, text, tokenizer, denoiser, scheduler)
            if done:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--pool", type=int, default=24000)
    parser.add_argument("--grounding", type=float, default=0.03)
    parser.add_argument("--stop-after", type=float, help="seconds; the next call goes on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        arguments.output,
        arguments.vae,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        pool_size=arguments.pool,
        grounding=arguments.grounding,
        stop_after=arguments.stop_after,
    )


if __name__ == "__main__":
    main()
