"""Train the bundled model's text encoder and UNet on latents of rendered scenes.

Besides the denoising loss, a grounding term asks that the attention of the words that describe an object
covers that object's mask (in the spirit of TokenCompose, CVPR 2024, on the 16x16 maps). The renderer knows the
masks, and a model this small learns which word owns which object many times faster. A second term keeps the
text states of words of different objects from pointing the same way.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...attention import MapRecorder, map_layers, recording_processors
from ..captions import write_caption
from ..gates import measure_maps, measure_words
from ..scene import Vocabulary
from ..tokenizer import MAX_LENGTH, build_tokenizer
from .common import (
    AveragedWeights,
    Pool,
    cosine_schedule,
    default_device,
    load_checkpoint,
    render_pool,
    save_checkpoint,
    to_unit,
)

log = logging.getLogger(__name__)
CONFUSION_WEIGHT = 0.5
CAPTION_DROPOUT = 0.1  # classifier-free guidance needs the empty caption


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = 128, layers: int = 2) -> CLIPTextModel:
    """Return an untrained text encoder whose words start far apart.

    CLIP's own initialisation (0.02) leaves neighbouring words with nearly equal states for the whole of a
    training this short, and colour words then never reach the UNet.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    embeddings = encoder.get_input_embeddings()
    torch.nn.init.normal_(embeddings.weight, std=0.7)
    positions = next(m for n, m in encoder.named_modules() if n.endswith("position_embedding"))
    torch.nn.init.normal_(positions.weight, std=0.15)
    return encoder


def build_unet(latent_channels: int, context: int, widths: tuple[int, int] = (96, 160)) -> UNet2DConditionModel:
    """Return an untrained UNet with cross-attention at 16x16 (and in the middle at 8x8)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        attention_head_dim=tuple(width // 32 for width in widths),  # historic name: the number of heads
        cross_attention_dim=context,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool) -> Tensor:
    """Return the latents of a pool's pictures, float16 ``[count, C, 16, 16]``."""
    batches = [vae.encode(to_unit(b).to(vae.device)).latent_dist.mode().half().cpu() for b in pool.pictures.split(64)]
    return torch.cat(batches)


def grounding_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Ask that a word's attention covers the object it describes, and nothing else.

    Args:
        maps: attention of K words, ``[B, K, N]``.
        masks: the object each word describes, ``[B, K, N]`` in [0, 1]; all zero for words without an object.

    Returns:
        Mean over described words of the cross-entropy between the mask and the map, each as a distribution over
        pixels, less the mask's entropy (so that 0 is perfect); a scalar.
    """
    described = masks.sum(-1) > 0
    wanted = masks / masks.sum(-1, keepdim=True).clamp(min=1e-6)
    found = (maps + 1e-6) / (maps + 1e-6).sum(-1, keepdim=True)
    divergence = (torch.xlogy(wanted, wanted) - wanted * found.log()).sum(-1)
    return (divergence * described).sum() / described.sum().clamp(min=1)


def confusion_loss(states: Tensor, owners: Tensor, *, margin: float = 0.4) -> Tensor:
    """Penalise words of different objects whose text states point the same way (cosine above ``margin``).

    Args:
        states: text states ``[B, T, C]``.
        owners: which object each word describes, int64 ``[B, T]``, -1 for none.
        margin: cosine that costs nothing.

    Returns:
        Mean over such pairs of words of the squared excess; a scalar.
    """
    directions = F.normalize(states.float(), dim=-1)
    cosines = directions @ directions.transpose(1, 2)  # [B, T, T]
    described = owners >= 0
    pairs = described[:, :, None] & described[:, None, :] & (owners[:, :, None] != owners[:, None, :])
    return ((cosines - margin).clamp(min=0).square() * pairs).sum() / pairs.sum().clamp(min=1)


class Batches:
    """Random batches of latents, captions and word masks; batch ``i`` is the same in every run."""

    def __init__(self, tokenizer: CLIPTokenizer, pool: Pool, latents: Tensor, batch_size: int):
        self.tokenizer, self.pool, self.latents, self.batch_size = tokenizer, pool, latents, batch_size
        self.masks = torch.cat([F.adaptive_avg_pool2d(m.float(), 16).half() for m in pool.masks.split(512)]).flatten(2)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents ``[B, C, 16, 16]``, token ids ``[B, T]``, word masks ``[B, T, 256]`` and owners ``[B, T]``."""
        rng = random.Random(step)
        rows = [rng.randrange(len(self.pool.scenes)) for _ in range(self.batch_size)]
        word_masks = torch.zeros(self.batch_size, MAX_LENGTH, 256)
        owners = torch.full((self.batch_size, MAX_LENGTH), -1)
        texts = []
        for place, row in enumerate(rows):
            if rng.random() < CAPTION_DROPOUT:
                texts.append("")
                continue
            written = write_caption(self.pool.scenes[row], rng, prefix=self.pool.prefixes[row])
            texts.append(written.text)
            for position, owner in enumerate(written.owners, start=1):  # every word is one token, after the start
                if owner >= 0:
                    word_masks[place, position] = self.masks[row, owner]
                    owners[place, position] = owner
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.latents[rows].float(), tokens, word_masks, owners


def train(
    output: Path,
    vae_folder: Path,
    *,
    steps: int,
    batch_size: int = 32,
    pool_size: int = 30000,
    learning_rate: float = 1.5e-3,
    text_learning_rate: float = 4e-4,
    grounding: float = 0.03,
    stop_after: float | None = None,
) -> None:
    """Train for ``steps`` steps, resuming from ``output/checkpoint.pt``; write the pipeline to ``output/model``.

    Args:
        output: folder of the checkpoint and the result.
        vae_folder: a trained autoencoder.
        steps: length of the schedule in optimiser steps.
        batch_size: pictures per step.
        pool_size: number of scenes rendered once and reused with ever new captions.
        learning_rate: of the UNet.
        text_learning_rate: of the text encoder.
        grounding: weight of the grounding term; 0 leaves it out.
        stop_after: seconds after which to save and stop, to be resumed.
    """
    device = default_device()
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vocabulary = Vocabulary()
    tokenizer = build_tokenizer()
    vae = AutoencoderKL.from_pretrained(vae_folder).to(device).eval()
    scheduler = build_scheduler()
    text_encoder = build_text_encoder(tokenizer).to(device).train()
    unet = build_unet(vae.config.latent_channels, text_encoder.config.hidden_size)
    unet = unet.to(device, memory_format=torch.channels_last).train()
    recorder = MapRecorder()
    for name, processor in recording_processors(unet, recorder, map_layers(unet)).items():
        unet.get_submodule(name).set_processor(processor)
    averaged_unet, averaged_text = AveragedWeights(unet, 0.999), AveragedWeights(text_encoder, 0.999)
    optimizer = torch.optim.AdamW(
        [
            {"params": unet.parameters(), "lr": learning_rate},
            {"params": text_encoder.parameters(), "lr": text_learning_rate},
        ],
        betas=(0.9, 0.99),
        weight_decay=0.01,
    )
    rates = [learning_rate, text_learning_rate]
    parts = {
        "unet": unet,
        "text_encoder": text_encoder,
        "averaged_unet": averaged_unet.module,
        "averaged_text": averaged_text.module,
        "optimizer": optimizer,
    }
    first = 0
    if (state := load_checkpoint(output / "checkpoint.pt")) is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["step"]
        averaged_unet.updates = averaged_text.updates = first
    log.info(
        "%.2f M UNet, %.2f M text encoder",
        *(sum(p.numel() for p in m.parameters()) / 1e6 for m in (unet, text_encoder)),
    )
    pool = render_pool(pool_size, vocabulary, seed=11)
    batches = Batches(tokenizer, pool, encode_pool(vae, pool), batch_size)
    log.info("rendered and encoded %d scenes", pool_size)
    all_words = torch.arange(MAX_LENGTH, device=device).expand(batch_size, -1)

    start, running = time.monotonic(), [0.0, 0.0]
    for step in range(first, steps):
        latents, tokens, word_masks, owners = (x.to(device) for x in batches[step])
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = torch.randint(0, 1000, (batch_size,), generator=generator).to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        recorder.start(all_words if grounding else None)
        with torch.autocast(device.type, torch.bfloat16):
            states = text_encoder(tokens)[0]
            prediction = unet(noisy, timesteps, states).sample
        loss = F.mse_loss(prediction.float(), scheduler.get_velocity(latents, noise, timesteps))
        ground = grounding_loss(recorder.mean().flatten(2), word_masks) if grounding else loss.new_zeros(())
        optimizer.zero_grad(set_to_none=True)
        confusion = confusion_loss(states, owners)
        (loss + grounding * ground + CONFUSION_WEIGHT * confusion).backward()
        torch.nn.utils.clip_grad_norm_([*unet.parameters(), *text_encoder.parameters()], 1.0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine_schedule(step, steps)
        optimizer.step()
        averaged_unet.update(unet)
        averaged_text.update(text_encoder)
        running = [
            0.98 * r + 0.02 * x.item() if step > first else x.item()
            for r, x in zip(running, (loss, ground), strict=True)
        ]
        done = step + 1 == steps or (stop_after is not None and time.monotonic() - start > stop_after)
        if (step + 1) % 100 == 0:
            rate = (step + 1 - first) * batch_size / (time.monotonic() - start)
            log.info("step %d loss %.4f grounding %.4f, %.1f samples/s", step + 1, *running, rate)
        if (step + 1) % 500 == 0 or done:
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


def write_model(folder: Path, vae, text_encoder, tokenizer, unet, scheduler) -> None:
    """Write the pipeline in diffusers' layout, fp16 safetensors."""
    parts = [copy.deepcopy(m).half() for m in (vae, text_encoder, unet)]
    pipe = StableDiffusionPipeline(
        vae=parts[0],
        text_encoder=parts[1],
        tokenizer=tokenizer,
        unet=parts[2],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    # transformers loads in the precision that the configuration names, diffusers in float32: make them agree.
    config_file = folder / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pool", type=int, default=30000)
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
