"""What kind of model a single file holds, told from the names and shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BaseModelError
from . import configurations
from .recognize import SUPPORTED

_UNET = "model.diffusion_model."
_FIRST = f"{_UNET}input_blocks.0.0.weight"
_LAST = f"{_UNET}out.2.weight"
_WORDS = ("attn2.to_k.weight",)
_GUIDANCE = f"{_UNET}time_embed.cond_proj.weight"  # of latent consistency models; diffusers has no name for it
_XL = ("conditioner.embedders.0.", "conditioner.embedders.1.")
# Parts of the names of what else people have in single files.
_OTHERS = {
    "joint_blocks.": "a diffusion transformer (Stable Diffusion 3)",
    "double_blocks.": "a diffusion transformer (Flux)",
    "single_transformer_blocks.": "a diffusion transformer",
    "double_layers.": "a diffusion transformer",
    "transformer_blocks.0.adaln": "a diffusion transformer",
    "control_model.": "a ControlNet",
    "motion_modules.": "a motion module",
    "lora_": "a LoRA, no model; load it beside one by load_lora_weights",
    ".lora": "a LoRA, no model; load it beside one by load_lora_weights",
    "hada_w": "a LyCORIS, no model",
    "string_to_param": "a textual inversion, no model",
    "emb_params": "a textual inversion, no model",
    "first_stage_model.": "an autoencoder alone",
}
_BASE_STEP = 875_000  # at which the 512-pixel model of 2.x was saved


def check_readable(shapes: Mapping[str, Sequence[int]], name: str) -> None:
    """Raise :class:`BaseModelError` for a model that diffusers' reader of single files would read in part.

    Args:
        shapes: of its weights, by name.
        name: of the file, for messages.
    """
    if _GUIDANCE in shapes:
        raise BaseModelError(
            f"the file {name!r} is a latent consistency model, of which folders alone are read; give its folder, or a "
            "plain model and the LCM-LoRA beside it"
        )


def configuration_of(
    shapes: Mapping[str, Sequence[int]], name: str, prediction: str | None = None, step: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the family of a file and the configuration of its parts.

    Args:
        shapes: of its weights, by name.
        name: of the file, for messages.
        prediction: what its metadata say that it predicts, if they do.
        step: training steps that it states, if it does.

    Raises:
        BaseModelError: another kind of file, in one line that says which.
    """
    if _FIRST not in shapes:
        raise BaseModelError(f"the file {name!r} is {_what_else(shapes)}; {SUPPORTED}")
    width = next((shape[1] for key, shape in shapes.items() if key.endswith(_WORDS) and len(shape) == 2), 0)
    if any(key.startswith(_XL[1]) for key in shapes):
        family, found = "sdxl", configurations.SDXL
    elif any(key.startswith(_XL[0]) for key in shapes):
        raise BaseModelError(f"the file {name!r} is a refiner of pictures, which draws none; give the base model")
    elif not any(key.startswith("cond_stage_model.") for key in shapes):
        raise BaseModelError(f"the file {name!r} holds a UNet without its text encoder; give a whole checkpoint")
    elif width == configurations.SD2["unet"]["cross_attention_dim"]:
        noise = prediction == "epsilon" or (prediction is None and step == _BASE_STEP)
        family, found = "sd2", configurations.SD2_BASE if noise else configurations.SD2
    else:
        family, found = "sd1", configurations.SD1
    channels = shapes[_FIRST][1]
    return family, found | {"unet": found["unet"] | {"in_channels": int(channels)}}


def _what_else(shapes: Mapping[str, Sequence[int]]) -> str:
    for part, what in _OTHERS.items():
        if any(part in key for key in shapes):
            return what
    return "no checkpoint of a model that draws"
