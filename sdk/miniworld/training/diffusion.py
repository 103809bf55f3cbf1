"""Train a model's UNet, and its text encoder along with it or not, on latents of rendered scenes.

The bundled model: first the text encoder alone learns, for half a minute, to keep track of what is said about each
object. Then both learn to denoise. A grounding term asks that the attention of the words that describe an object covers
that object; it fades away, so that the finished model's maps are what denoising made of them.

The "natural" base: the text encoder is finished (``--text-encoder``), and denoising is all that the UNet learns, unless
``--grounding`` says otherwise.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from ...families.layers import map_layers
from ...unet.attention import MapRecorder, recording_processors
from ..captions import Caption, write_caption
from ..gates import measure_maps, measure_words
from ..scene import Vocabulary
from ..tokenizer import MAX_LENGTH, build_tokenizer
from .common import AveragedWeights, default_device, load_checkpoint, save_checkpoint, trapezoid_schedule
from .models import build_scheduler, build_unet, write_model
from .muon import Muon
from .pools import Pool, collect_pool, submit_pool, to_unit, workers
from .words import FinishedWords, GroundedWords, Texts

log = logging.getLogger(__name__)
CAPTION_DROPOUT = 0.1  # classifier-free guidance needs the empty caption
GROUNDING = 0.03  # weight of the grounding term for an encoder that trains along
USES = 4  # how often each rendered scene is shown, with ever new captions and noise


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
    grounding: float | None = None,
    finished_text_encoder: Path | None = None,
    alike: float = 0.0,
    init: Path | None = None,
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
        grounding: weight of the grounding term at the start; it falls to 0 in a line. ``None``: 0.03, and 0 with a
            finished text encoder.
        finished_text_encoder: folder of one that stays as it is.
        alike: share of the scenes of several objects in which two are of one class.
        init: folder of a pipeline whose UNet is where training starts; ``None``: at random.
        stop_after: seconds after which to save and stop, to be resumed.
    """
    device = default_device()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vocabulary, tokenizer, scheduler = Vocabulary(), build_tokenizer(), build_scheduler()
    vae = AutoencoderKL.from_pretrained(vae_folder).to(device).eval()
    if finished_text_encoder is None:
        weight = GROUNDING if grounding is None else grounding
        words: GroundedWords | FinishedWords = GroundedWords(tokenizer, device, weight, steps)
    else:
        words = FinishedWords(finished_text_encoder, device, grounding or 0.0, steps)
    if init is None:
        unet = build_unet(vae.config.latent_channels, words.encoder.config.hidden_size)
    else:
        unet = UNet2DConditionModel.from_pretrained(init, subfolder="unet", torch_dtype=torch.float32)
    unet = unet.to(device, memory_format=torch.channels_last).train()
    recorder = MapRecorder()
    for name, processor in recording_processors(unet, recorder, map_layers(unet)).items():
        unet.get_submodule(name).set_processor(processor)
    checkpoint = load_checkpoint(output / "checkpoint.pt")
    if checkpoint is None:
        words.start()
    averaged_unet, averaged_text = AveragedWeights(unet, 0.999), words.average()
    ends = ("conv_in.weight", "conv_out.weight")
    matrices = [p for n, p in unet.named_parameters() if p.ndim > 1 and n not in ends]
    rest = [p for n, p in unet.named_parameters() if p.ndim <= 1 or n in ends]
    others: list[dict[str, Any]] = [{"params": rest, "lr": learning_rate / 2}]
    if words.parts():
        trained = [p for part in words.parts().values() for p in part.parameters()]
        others.append({"params": trained, "lr": text_learning_rate})
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, learning_rate),
        torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01),
    ]
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    parts = {
        "unet": unet,
        **words.parts(),
        "averaged_unet": averaged_unet.module,
        "muon": optimizers[0],
        "adamw": optimizers[1],
    }
    if averaged_text is not None:
        parts["averaged_text"] = averaged_text.module
    first = 0
    if checkpoint is not None:
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        first = checkpoint["step"]
        for averaged in filter(None, (averaged_unet, averaged_text)):
            averaged.updates = first
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]  # new ones after a resume
    all_words = torch.arange(MAX_LENGTH, device=device).expand(batch_size, -1)
    pool_steps = USES * pool_size // batch_size
    running: dict[str, Tensor] = {}
    drawn = Vocabulary(alike=alike)
    begin = start = time.monotonic()
    with workers() as executor:
        pools = Pools(executor, drawn, pool_size, pool_steps, ahead=device.type == "cuda")
        for step in range(first, steps):
            if step == first or step % pool_steps == 0:
                batches = Batches(tokenizer, pools.get(step // pool_steps), vae, batch_size)
                log.info("rendered and encoded %d scenes", pool_size)
            latents, texts, masks = batches[step]
            generator = torch.Generator().manual_seed(step)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            timesteps = stratified_timesteps(batch_size, generator).to(device)
            noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
            strength = words.strength(step)
            recorder.start(all_words if strength else None)
            with torch.autocast(device.type, torch.bfloat16):
                states = words.states(texts.tokens)
                prediction = unet(noisy, timesteps, states).sample
            loss = F.mse_loss(prediction.float(), scheduler.get_velocity(latents, noise, timesteps))
            of_words, seen = words.losses(states, texts)
            total = loss + of_words
            if strength:
                seen["grounding"] = words.ground(recorder.mean().flatten(2), masks)
                total = total + strength * seen["grounding"]
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * trapezoid_schedule(step, steps)
            for optimizer in optimizers:
                optimizer.step()
            averaged_unet.update(unet)
            if averaged_text is not None:
                averaged_text.update(words.encoder)
            for name, value in {"loss": loss, **seen}.items():
                running[name] = running.get(name, value.detach()).lerp(value.detach(), 0.02)
            done = step + 1 == steps or (stop_after is not None and time.monotonic() - begin > stop_after)
            if (step + 1) % 100 == 0:
                rate = 100 * batch_size / (time.monotonic() - start)
                start = time.monotonic()
                figures = " ".join(f"{name} {value.item():.4f}" for name, value in running.items())
                log.info("step %d %s, %.1f samples/s", step + 1, figures, rate)
            if (step + 1) % 1000 == 0 or done:
                saved = {name: part.state_dict() for name, part in parts.items()}
                save_checkpoint(output / "checkpoint.pt", saved | {"step": step + 1})
                recorder.start(None)
                text = words.encoder if averaged_text is None else averaged_text.module
                denoiser = averaged_unet.module
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
    parser.add_argument("--grounding", type=float, help=f"default {GROUNDING}, and 0 with --text-encoder")
    parser.add_argument("--text-encoder", type=Path, help="of sdk.miniworld.training.contrastive; it stays as it is")
    parser.add_argument("--alike", type=float, default=0.0, help="share of scenes with two objects of one class")
    parser.add_argument("--init", type=Path, help="a pipeline whose UNet is where training starts; default at random")
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
        finished_text_encoder=arguments.text_encoder,
        alike=arguments.alike,
        init=arguments.init,
        stop_after=arguments.stop_after,
    )


if __name__ == "__main__":
    main()
