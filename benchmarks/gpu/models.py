"""Base models of each family at their true size, with random weights, which cost the same; or tiny ones.

For want of CLIP's vocabulary the tokenizer is the bundled model's, filled up to 77 tokens as CLIP's is; the table of
word embeddings is as long as its vocabulary, which saves 76 MB of Stable Diffusion 1.5's weights and no time.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdk import Personalizer
from sdk.families import CONFIGURATIONS
from sdk.miniworld import demo_picture

from .sizes import Sizes

NAMES = {"sd1": "sd1", "sd2": "sd2-base", "sdxl": "sdxl"}  # of configurations by family, at 512 and 1024 pixels
CLASSES = ["cat", "dog"]
PROMPT = "photo of a <new1> cat and a <new2> dog"
PLAIN = "photo of a cat and a dog"  # for those that know no tokens


def configuration(family: str, tiny: bool) -> dict[str, Any]:
    """Return the numbers of a family's parts, with two of the kinds of blocks and few channels if ``tiny``."""
    parts = copy.deepcopy(CONFIGURATIONS[NAMES[family]])
    if not tiny:
        return parts
    blocks = {
        name: [parts["unet"][name][0], parts["unet"][name][-1]] for name in ("down_block_types", "up_block_types")
    }
    parts["unet"] |= blocks | {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 16,
        "attention_head_dim": 2 if family == "sd1" else [2, 4],
    }
    small = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    parts["text_encoder"] |= small
    if family != "sd2":  # by its width of 1024 it is known
        parts["text_encoder"]["hidden_size"] = parts["unet"]["cross_attention_dim"] = 24
    if "text_encoder_2" in parts:
        parts["text_encoder_2"] |= small | {"hidden_size": 40, "projection_dim": 40}
        parts["unet"] |= {
            "cross_attention_dim": 24 + 40,
            "transformer_layers_per_block": [1, 2],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 40 + 6 * 8,
        }
    parts["vae"] |= {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return parts


@cache
def _bundled_tokenizer() -> Any:
    return Personalizer.from_pretrained("bundled", device="cpu").pipe.tokenizer


def stable_diffusion(sizes: Sizes) -> Personalizer:
    """Return Stable Diffusion 1.5: the user's own, or of random weights."""
    if sizes.model is None:
        return random_personalizer("sd1", sizes)
    return Personalizer.from_pretrained(sizes.model, device=sizes.device, dtype=sizes.dtype)


def parts_of(personalizer: Personalizer) -> dict[str, Any]:
    """Return the numbers of a model's parts, as :func:`configuration` does."""
    pipe = personalizer.pipe
    return {"unet": pipe.unet.config, "vae": pipe.vae.config, "text_encoder": pipe.text_encoder.config.to_dict()}


def random_personalizer(family: str, sizes: Sizes) -> Personalizer:
    """Return a base model with random weights on the device of a run."""
    parts = configuration(family, sizes.tiny)
    torch.manual_seed(0)
    tokenizer = copy.deepcopy(_bundled_tokenizer())
    tokenizer.model_max_length = parts["text_encoder"]["max_position_embeddings"]
    with sizes.device:  # made there: numbers at random take a CPU half a minute for the largest
        pieces: dict[str, Any] = {
            "unet": _with_large_weights(UNet2DConditionModel.from_config(parts["unet"])),
            "vae": AutoencoderKL.from_config(parts["vae"]),
            "text_encoder": _text_encoder(CLIPTextModel, parts["text_encoder"], tokenizer),
        }
        if "text_encoder_2" in parts:
            kind = CLIPTextModelWithProjection
            pieces["text_encoder_2"] = _text_encoder(kind, parts["text_encoder_2"], tokenizer)
    pieces = {name: module.to(sizes.device, sizes.dtype).eval() for name, module in pieces.items()}
    numbers = parts["scheduler"]
    pieces["scheduler"] = getattr(diffusers, numbers["_class_name"]).from_config(numbers)
    pieces["tokenizer"] = tokenizer
    if family == "sdxl":
        second = copy.deepcopy(tokenizer)
        second.pad_token = parts["tokenizer_2"]["pad_token"]
        return Personalizer(StableDiffusionXLPipeline(**pieces, tokenizer_2=second, add_watermarker=False))
    return Personalizer(StableDiffusionPipeline(**pieces, **_UNCHECKED))


_UNCHECKED: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def plain_pipeline(pipe: Any, unet: Any) -> StableDiffusionPipeline:
    """Return diffusers' own pipeline of the same parts, with a UNet of its own and DDIM, as ours draws."""
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    names = ("vae", "text_encoder", "tokenizer")
    parts = {name: getattr(pipe, name) for name in names}
    plain = StableDiffusionPipeline(**parts, unet=unet, scheduler=scheduler, **_UNCHECKED)
    plain.set_progress_bar_config(disable=True)
    return plain


def _text_encoder(kind: type, numbers: dict[str, Any], tokenizer: Any) -> Any:
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    encoder = kind(CLIPTextConfig(**numbers | {"vocab_size": len(tokenizer)} | ends))
    torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=0.7)
    return encoder


def _with_large_weights(unet: Any) -> Any:
    """Weights whose results are as large as what comes in, or activations would vanish."""
    for weight in unet.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return unet


def reference_picture(personalizer: Personalizer) -> Image.Image:
    """Return a picture of a cat and a dog at a model's resolution."""
    return demo_picture().resize((personalizer.resolution,) * 2, Image.Resampling.LANCZOS)


def masks_of(picture: Image.Image) -> list[Image.Image]:
    """Return a mask for each of :data:`CLASSES`: the left and the right half."""
    width, height = picture.size
    found = []
    for index in range(len(CLASSES)):
        mask = Image.new("L", picture.size)
        mask.paste(255, (index * width // 2, 0, (index + 1) * width // 2, height))
        found.append(mask)
    return found
