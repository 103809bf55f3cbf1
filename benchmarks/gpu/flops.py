"""Floating-point operations of a picture and of a row of a fit, counted on the meta device; a multiply-add is two."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel


def _counted(compute: Any) -> int:
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.device("meta"):
        compute()
    return counter.get_total_flops()


def _unet(parts: dict[str, Any], learns: bool) -> tuple[Any, tuple[Any, ...]]:
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(parts["unet"]).requires_grad_(False)
        side, channels = model.config.sample_size, model.config.in_channels
        length = parts["text_encoder"]["max_position_embeddings"]
        states = torch.empty(1, length, model.config.cross_attention_dim, requires_grad=learns)
        inputs = (torch.empty(1, channels, side, side), torch.tensor(1), states)
    for name, weight in model.named_parameters():
        if learns and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weight.requires_grad_(True)
    return model, inputs


def unet_flops(parts: dict[str, Any]) -> int:
    """Return those of one row going through a UNet once."""
    model, inputs = _unet(parts, learns=False)
    with torch.no_grad():
        return _counted(lambda: model(*inputs))


def fit_row_flops(parts: dict[str, Any]) -> int:
    """Return those of one row of a step that learns K, V and tokens: UNet and text encoder, there and back."""
    model, inputs = _unet(parts, learns=True)
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])).requires_grad_(False)
        encoder.get_input_embeddings().weight.requires_grad_(True)
        ids = torch.zeros(1, parts["text_encoder"]["max_position_embeddings"], dtype=torch.long)
    through = _counted(lambda: model(*inputs).sample.sum().backward())
    return through + _counted(lambda: encoder(ids).last_hidden_state.sum().backward())


def picture_flops(parts: dict[str, Any], steps: int) -> int:
    """Return those of a guided picture: twice the UNet in each step, and the decoder once."""
    with torch.device("meta"):
        decoder = AutoencoderKL.from_config(parts["vae"]).requires_grad_(False)
        side = parts["unet"]["sample_size"]
        latents = torch.empty(1, parts["vae"]["latent_channels"], side, side)
    return 2 * steps * unet_flops(parts) + _counted(lambda: decoder.decode(latents))
