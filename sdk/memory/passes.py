"""Bytes that passes through a base model's parts take beside their weights; see :mod:`sdk.memory.live`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..families.layers import cross_attention_layers
from .live import CountedAttention, Live

_TOKENS = 77  # of a prompt; CLIP's
_REMEMBERED = 64  # models and sizes
_MANY = 1000  # numbers to a cell and channel of every level, of a row: far more than any UNet keeps


def on_meta(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return a model of diffusers' without numbers.

    Args:
        kind: its class.
        config: its configuration.
        dtype: of its weights.
    """
    with torch.device("meta"):
        model = kind.from_config(dict(config))
    nn.Module.to(model, dtype).requires_grad_(False)  # by PyTorch's own `to`, as diffusers' warns of nothing
    return model


def rough_step(config: Mapping[str, Any], rows: int, size: tuple[int, int], dtype: torch.dtype) -> int:
    """Return more bytes than a step with so many rows can take, at once: what fits here need not be counted.

    Args:
        config: of the UNet.
        rows: that go through it together.
        size: of the latents, height and width.
        dtype: of the computation.
    """
    cells = size[0] * size[1]
    numbers = sum(cells / 4**level * width for level, width in enumerate(config["block_out_channels"]))
    return int(rows * _MANY * numbers * torch.empty(0, dtype=dtype).element_size())


def step_peak(unet: Any, rows: int, size: tuple[int, int], dtype: torch.dtype, *, learns: bool) -> int:
    """Return what a forward and a backward pass take, without the gradients of what is learned.

    Args:
        unet: on the meta device, see :func:`on_meta`.
        rows: that go through it together.
        size: of the latents, height and width.
        dtype: of the computation.
        learns: K and V train beside the frozen weights; else the weights that want gradients do.
    """
    unet.train()  # diffusers recomputes in this mode alone; there is no dropout
    learned = {
        name: tuple(nn.Parameter(torch.empty_like(m.weight)) for m in (layer.to_k, layer.to_v))
        for name, layer in cross_attention_layers(unet).items()
    }
    _count_attention(unet, learned if learns else {})
    given = [*unet.parameters(), *unet.buffers(), *(p for pair in learned.values() for p in pair)]
    with Live(given) as live:
        prediction = unet(
            *_inputs(unet, rows, size, dtype, grad=True), return_dict=False, **_further(unet, rows, dtype)
        )
        prediction[0].float().square().mean().backward()
        del prediction
        gradients = [p.grad for pair in learned.values() for p in pair] + [p.grad for p in unet.parameters()]
        own = sum(g.untyped_storage().nbytes() for g in gradients if g is not None)
    return max(live.peak - own, 0)


def drawing_peak(config: Mapping[str, Any], rows: int, size: tuple[int, int], dtype: torch.dtype) -> int:
    """Return what a pass of a UNet without gradients takes; counted once, as every drawing asks for it.

    Args:
        config: of the UNet.
        rows: that go through it together.
        size: of the latents, height and width.
        dtype: of the computation.
    """
    return _drawing_peak(json.dumps(dict(config), default=str), rows, size, dtype)


@lru_cache(_REMEMBERED)
@torch.no_grad()
def _drawing_peak(config: str, rows: int, size: tuple[int, int], dtype: torch.dtype) -> int:
    unet = on_meta(UNet2DConditionModel, json.loads(config), dtype).eval()
    _count_attention(unet, {})
    with Live([*unet.parameters(), *unet.buffers()]) as live:
        unet(*_inputs(unet, rows, size, dtype, grad=False), return_dict=False, **_further(unet, rows, dtype))
    return live.peak


def decoding_peak(config: Mapping[str, Any], size: tuple[int, int], dtype: torch.dtype) -> int:
    """Return what it takes to decode latents of one picture; counted once likewise.

    Args:
        config: of the autoencoder.
        size: of the latents, height and width.
        dtype: of the computation.
    """
    return _decoding_peak(json.dumps(dict(config), default=str), size, dtype)


@lru_cache(_REMEMBERED)
@torch.no_grad()
def _decoding_peak(config: str, size: tuple[int, int], dtype: torch.dtype) -> int:
    vae = on_meta(AutoencoderKL, json.loads(config), dtype).eval()
    _count_attention(vae, {})
    latents = torch.empty(1, vae.config.latent_channels, *size, dtype=dtype, device="meta")
    with Live([*vae.parameters(), *vae.buffers()]) as live:
        vae.decode(latents, return_dict=False)
    return live.peak


def text_kept(encoders: Sequence[Any], rows: int) -> int:
    """Return what text encoders keep of prompts for the backward pass, through which tokens learn.

    Args:
        encoders: transformers' models, anywhere; their configurations are looked at.
        rows: prompts.
    """
    kept = 0
    for encoder in encoders:
        kind = type(getattr(encoder, "_orig_mod", encoder))  # of a compiled one
        with torch.device("meta"):
            model = kind(encoder.config)
        nn.Module.to(model, encoder.dtype).requires_grad_(False)
        inner = getattr(model, "text_model", model)
        ids = torch.zeros(rows, encoder.config.max_position_embeddings, dtype=torch.int64, device="meta")
        table = inner.embeddings.token_embedding
        table.weight.requires_grad_(True)  # what is learned lies beside it
        with Live([*model.parameters(), *model.buffers()]) as live:
            states = model(ids).last_hidden_state
            kept += live.now
            del states
    return kept


def _count_attention(model: Any, learned: Mapping[str, Any]) -> None:
    model.set_attn_processor(
        {
            f"{name}.processor": CountedAttention(learned.get(name))
            for name, module in model.named_modules()
            if isinstance(module, Attention)
        }
    )


def _inputs(unet: Any, rows: int, size: tuple[int, int], dtype: torch.dtype, *, grad: bool) -> tuple[Tensor, ...]:
    config = unet.config
    sample = torch.empty(rows, config.in_channels, *size, dtype=dtype, device="meta")
    width = config.cross_attention_dim
    states = torch.empty(rows, _TOKENS, width, dtype=dtype, device="meta", requires_grad=grad)
    return sample, torch.empty(rows, dtype=torch.int64, device="meta"), states


def _further(unet: Any, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """What some take beside: sizes and a state of the whole prompt, the guidance scale."""
    config = unet.config
    found: dict[str, Any] = {}
    if config.get("addition_embed_type") == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        found["added_cond_kwargs"] = {
            "text_embeds": torch.empty(rows, pooled, dtype=dtype, device="meta"),
            "time_ids": torch.empty(rows, 6, dtype=dtype, device="meta"),
        }
    if config.get("time_cond_proj_dim") is not None:
        found["timestep_cond"] = torch.empty(rows, config.time_cond_proj_dim, dtype=dtype, device="meta")
    return found
