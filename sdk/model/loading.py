"""Base models: loading them, and telling one from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from ..errors import BaseModelError, MissingFileError
from ..runtime import without_bars
from .fingerprint import BaseIdentity
from .layers import cross_attention_layers

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled" / "model"
_SINGLE_FILES = (".safetensors", ".ckpt")


def load_pipeline(model: str | Path, *, dtype: torch.dtype, **options: Any) -> StableDiffusionPipeline:
    """Load a base model.

    Args:
        model: ``"bundled"``, a folder in diffusers' layout, a single ``.safetensors`` or ``.ckpt`` file, or a Hub id.
        dtype: of the weights.
        **options: passed on to diffusers (``revision``, ``variant``, ``local_files_only``, ``config``, ...).

    Raises:
        MissingFileError: a path that does not exist.
        BaseModelError: something is there, but it is no Stable Diffusion model.
    """
    source = Path(BUNDLED_FOLDER if str(model) == BUNDLED else model)
    defaults: dict[str, Any] = {"dtype": dtype}
    looks_like_path = str(model).startswith((".", "/", "~")) or source.suffix in _SINGLE_FILES
    if not source.exists() and (looks_like_path or str(model) == BUNDLED):
        raise MissingFileError(f"there is no model at {source}; check the path of the base model")
    try:
        with without_bars():
            if source.is_file():
                return StableDiffusionPipeline.from_single_file(str(source), **(defaults | options))
            defaults |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            where = str(source) if source.is_dir() else str(model)
            return StableDiffusionPipeline.from_pretrained(where, **(defaults | options))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"cannot load the base model {str(model)!r} ({first_line}); give 'bundled', a Stable Diffusion folder, a "
            "single checkpoint file or a Hub id"
        ) from error


def identify(pipe: StableDiffusionPipeline, name: str | Path) -> BaseIdentity:
    """Return the identity of a loaded base model."""
    norms = {
        layer: (module.to_k.weight.float().norm().item(), module.to_v.weight.float().norm().item())
        for layer, module in cross_attention_layers(pipe.unet).items()
    }
    if not norms:
        raise BaseModelError(f"{name} has no cross-attention layers; give a Stable Diffusion model")
    resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return BaseIdentity(str(name), norms, int(pipe.unet.config.cross_attention_dim), int(resolution))


def recommended_settings(model: str | Path) -> dict[str, Any]:
    """Return what a base model recommends for ``fit`` and ``generate`` (``defaults.json`` in its folder), if anything.

    The bundled model is far smaller than SD 1.5 and needs other step sizes; its model card says why.
    """
    folder = BUNDLED_FOLDER if str(model) == BUNDLED else Path(model)
    file = folder / "defaults.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
