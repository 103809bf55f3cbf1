"""Stable Diffusion XL (Podell et al., 2023): two text encoders, a state of the whole prompt, sizes as conditions.

The states are those before the last layer of both encoders, side by side (768 + 1280 wide), without the final norm. The
pooled state is the second encoder's, projected, at the end token.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from . import layers
from .family import Family
from .remembering import states_before
from .states import TextStates


class StableDiffusionXL(Family):
    """CLIP ViT-L/14 beside OpenCLIP ViT-bigG/14, 128 x 128 latents."""

    name = "sdxl"
    title = "Stable Diffusion XL"
    architecture = "stable-diffusion-xl-v1-base"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    loading = MappingProxyType({"add_watermarker": False})
    token_keys = ("clip_l", "clip_g")
    kv_rank = 32
    whole_unet = False
    loss_side = 16
    default_side = 128
    single_precision_vae = True

    def has(self, pipe: Any) -> bool:
        return getattr(pipe, "text_encoder_2", None) is not None

    def conditions_are_known(self, config: Any) -> bool:
        width = config.get("addition_time_embed_dim") or 0
        return config.get("addition_embed_type") == "text_time" and width > 0

    def pipeline(self, components: dict[str, Any]) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(**components, add_watermarker=False)

    def pipeline_class(self) -> type[StableDiffusionXLPipeline]:
        return StableDiffusionXLPipeline

    def read(self, encoder: Any, ids: Tensor, *, index: int, end: int, clip_skip: int) -> tuple[Tensor, Tensor | None]:
        with states_before(encoder, clip_skip + 1) as kept:
            result = encoder(ids)
        (states,) = kept
        if index == 0:
            return states, None
        # transformers looks for the largest id, and those of learned tokens are larger than the end token's.
        place = (ids == end).int().argmax(-1)[:, None, None]
        last = result.last_hidden_state
        pooled = last.gather(1, place.expand(-1, 1, last.shape[-1]))[:, 0]
        return states, encoder.text_projection(pooled)

    def without_prompt(self, pipe: Any, text: TextStates) -> TextStates:
        if not pipe.config.get("force_zeros_for_empty_prompt", True):
            return text
        assert text.pooled is not None
        return TextStates(torch.zeros_like(text.states), torch.zeros_like(text.pooled))

    def unet_arguments(self, text: TextStates, sizes: Tensor) -> dict[str, Any]:
        assert text.pooled is not None
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": sizes.to(text.pooled)}}

    def drawing_arguments(self, prompts: TextStates, negative: TextStates | None) -> dict[str, Any]:
        return super().drawing_arguments(prompts, negative) | {
            "pooled_prompt_embeds": prompts.pooled,
            "negative_pooled_prompt_embeds": None if negative is None else negative.pooled,
        }

    def mask_layers(self, unet: nn.Module) -> list[str]:
        """Those beside the maps (32 x 32 at 1024 pixels); one size finer there are 4096 tokens."""
        return layers.beside(layers.map_layers(unet))

    def clip_layers(self, encoder: Any) -> int:
        return super().clip_layers(encoder) - 1
