"""Tiny random models of the true architectures: the class names, keys and configurations of what people have.

Widths and depths are small; everything that a loader, a trainer or a sampler could trip over is as in the originals:
which blocks attend, lists of heads, linear projections, two text encoders with paddings of their own, noise levels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdk.miniworld.tokenizer import MAX_LENGTH, build_tokenizer

SIDE = 32  # of the latents; pictures have twice that
LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_encoder(tokenizer: Any, width: int, layers: int, kind: type = CLIPTextModel, act: str = "quick_gelu") -> Any:
    """A text encoder; with the end token that configurations of before transformers 4.31 state."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    encoder = kind(config)
    torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=0.7)
    return encoder.eval()


def autoencoder(**changes: Any) -> AutoencoderKL:
    """One with a factor of two."""
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 2 * SIDE,
    }
    return AutoencoderKL(**(settings | changes))


def unet(width: int, **changes: Any) -> UNet2DConditionModel:
    """Stable Diffusion 1.x's: four levels, attention in three."""
    settings: dict[str, Any] = {
        "sample_size": SIDE,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (8, 16, 32, 32),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": width,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def sd1(scheduler: Any = None, **changes: Any) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5."""
    tokenizer = build_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer, 24, 2),
        tokenizer=tokenizer,
        unet=unet(24, **changes),
        scheduler=scheduler or PNDMScheduler(**LEVELS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd2(prediction: str = "v_prediction", scheduler: Any = None, **changes: Any) -> StableDiffusionPipeline:
    """Stable Diffusion 2.1: OpenCLIP's encoder without its last layer, lists of heads, linear projections."""
    tokenizer = build_tokenizer()
    tokenizer.pad_token = "!"
    own = {"attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True, "upcast_attention": True}
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer, 1024, 1, act="gelu"),
        tokenizer=tokenizer,
        unet=unet(1024, **(own | changes)),
        scheduler=scheduler or DDIMScheduler(**LEVELS, steps_offset=1, clip_sample=False, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scheduler: Any = None, **changes: Any) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: two encoders, no attention at the finest of three levels, sizes as conditions."""
    first, second = build_tokenizer(), build_tokenizer()
    second.pad_token = "!"
    second_width = 40
    own: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16, 32),
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [1, 2, 4],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": second_width + 6 * 8,
    }
    return StableDiffusionXLPipeline(
        vae=autoencoder(force_upcast=True, scaling_factor=0.13025),
        text_encoder=text_encoder(first, 24, 3),
        text_encoder_2=text_encoder(second, second_width, 3, CLIPTextModelWithProjection, "gelu"),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(24 + second_width, **(own | changes)),
        scheduler=scheduler or EulerDiscreteScheduler(**LEVELS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def inpainting() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's inpainting UNet: latents, a mask, and latents of what stays."""
    return sd1(in_channels=9)


def turbo() -> StableDiffusionPipeline:
    """SD-Turbo: 2.1's architecture, distilled to one to four steps without guidance."""
    return sd2("epsilon", EulerDiscreteScheduler(**LEVELS, timestep_spacing="trailing", steps_offset=1))


def sdxl_turbo() -> StableDiffusionXLPipeline:
    """SDXL-Turbo."""
    return sdxl(EulerAncestralDiscreteScheduler(**LEVELS, timestep_spacing="trailing", steps_offset=1))


def lcm() -> StableDiffusionPipeline:
    """A latent consistency model, whose UNet takes the guidance scale as a condition."""
    return sd1(LCMScheduler(**LEVELS, steps_offset=1), time_cond_proj_dim=16)


def zero_snr() -> StableDiffusionPipeline:
    """A fine-tune of 2.1 whose last level is noise alone (Lin et al., WACV 2024)."""
    own = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    return sd2(scheduler=DDIMScheduler(**LEVELS, clip_sample=False, **own))


MODELS = {
    "sd1": sd1,
    "sd2": sd2,
    "sd2-base": partial(sd2, "epsilon"),
    "sdxl": sdxl,
    "inpainting": inpainting,
    "turbo": turbo,
    "sdxl-turbo": sdxl_turbo,
    "lcm": lcm,
    "zero-snr": zero_snr,
}


def write(name: str, folder: Path, **how: Any) -> Path:
    """Write a model as a folder in diffusers' layout; ``how``: as :meth:`DiffusionPipeline.save_pretrained`."""
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder, **how)
    return folder
