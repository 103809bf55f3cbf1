"""Models of diffusers' layout as the single files that other programs write: their names for the same weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_AUTOENCODER = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_shortcut": "nin_shortcut",
}


def unet_name(name: str, layers: int, attends: set[str]) -> str:
    """CompVis' name of a UNet's weight."""
    for ours, theirs in _FIXED.items():
        if name.startswith(f"{ours}."):
            name = theirs + name.removeprefix(ours)
            break
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if match is not None:
        way, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if way == "down":
            at = 1 + block * (layers + 1) + index
            name = f"input_blocks.{at}.{0 if kind == 'resnets' else 1}.{rest}"
            if kind == "downsamplers":
                name = f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        else:
            at = block * (layers + 1) + (layers if kind == "upsamplers" else index)
            place = {"resnets": 0, "attentions": 1}.get(kind, 2 if f"up_blocks.{block}" in attends else 1)
            name = f"output_blocks.{at}.{place}.{rest}"
    for ours, theirs in _RESNET.items():
        name = re.sub(rf"^((?:input_blocks|output_blocks|middle_block)\.[\d.]+)\.{ours}\.", rf"\1.{theirs}.", name)
    return name


def autoencoder_name(name: str, blocks: int) -> str:
    """CompVis' name of an autoencoder's weight."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    for kind, own in (("resnets", "block"), ("upsamplers.0", "upsample")):
        name = re.sub(
            rf"up_blocks\.(\d+)\.{re.escape(kind)}", lambda m, own=own: f"up.{blocks - 1 - int(m[1])}.{own}", name
        )
    for ours, theirs in _AUTOENCODER.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    return name


def open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder by open_clip's names."""
    inner = getattr(encoder, "text_model", encoder)
    found = {
        "positional_embedding": inner.embeddings.position_embedding.weight,
        "token_embedding.weight": inner.embeddings.token_embedding.weight,
        "ln_final.weight": inner.final_layer_norm.weight,
        "ln_final.bias": inner.final_layer_norm.bias,
    }
    for index, layer in enumerate(inner.encoder.layers):
        block = f"transformer.resblocks.{index}."
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        found[f"{block}attn.in_proj_weight"] = torch.cat([part.weight for part in parts])
        found[f"{block}attn.in_proj_bias"] = torch.cat([part.bias for part in parts])
        for ours, module in (
            ("attn.out_proj", attention.out_proj),
            ("ln_1", layer.layer_norm1),
            ("ln_2", layer.layer_norm2),
            ("mlp.c_fc", layer.mlp.fc1),
            ("mlp.c_proj", layer.mlp.fc2),
        ):
            found |= {f"{block}{ours}.weight": module.weight, f"{block}{ours}.bias": module.bias}
    if hasattr(encoder, "text_projection"):
        found["text_projection"] = encoder.text_projection.weight.T
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder by the names of CompVis' programs."""
    inner = getattr(encoder, "text_model", encoder)
    return {f"{prefix}text_model.{name}": tensor for name, tensor in inner.state_dict().items()}


def checkpoint(pipe: Any) -> dict[str, Tensor]:
    """All weights of a pipeline by the names of a single file."""
    layers = int(pipe.unet.config.layers_per_block)
    attends = {m[0] for n in pipe.unet.state_dict() if (m := re.match(r"up_blocks\.\d+(?=\.attentions)", n))}
    found = {
        f"model.diffusion_model.{unet_name(name, layers, attends)}": tensor
        for name, tensor in pipe.unet.state_dict().items()
    }
    blocks = len(pipe.vae.config.block_out_channels)
    for name, tensor in pipe.vae.state_dict().items():
        theirs = autoencoder_name(name, blocks)
        matrix = "mid.attn_1" in theirs and "norm" not in theirs and tensor.ndim == 2
        found[f"first_stage_model.{theirs}"] = tensor[..., None, None] if matrix else tensor
    if getattr(pipe, "text_encoder_2", None) is not None:
        found |= clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        found |= open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipe.text_encoder.config.hidden_act == "gelu":
        found |= open_clip(pipe.text_encoder, "cond_stage_model.model.")
    else:
        found |= clip(pipe.text_encoder, "cond_stage_model.transformer.")
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}
