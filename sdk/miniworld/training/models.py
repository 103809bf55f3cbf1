"""The untrained parts of the bundled model, in Stable Diffusion's component classes, and how to write them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..tokenizer import MAX_LENGTH


def build_autoencoder(latent_channels: int = 8) -> AutoencoderKL:
    """Return an untrained autoencoder with a factor of 4 between pixels and latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def build_text_encoder(
    tokenizer: CLIPTokenizer, width: int = 128, layers: int = 2, *, words_apart: bool = True
) -> CLIPTextModel:
    """Return an untrained text encoder, whose words start far apart or as CLIP's did.

    CLIP's own initialisation (0.02) leaves neighbouring words with nearly equal states for the whole of a training as
    short as that of a UNet here, and colour words then never reach it.
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
    if not words_apart:
        return encoder
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


def write_model(
    folder: Path,
    vae: nn.Module,
    text_encoder: nn.Module,
    tokenizer: CLIPTokenizer,
    unet: nn.Module,
    scheduler: DDIMScheduler,
) -> None:
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
    for part in ("vae", "text_encoder", "unet"):
        config_file = folder / part / "config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where a part was trained concerns nobody
        if part == "text_encoder":
            # transformers loads in the precision that the configuration names, diffusers in float32: make them agree.
            config["dtype"] = "float32"
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
