"""The base model: loading, identity, text, noise levels, the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .base_model import BaseModel
    from .denoise import Denoiser
    from .latents import LatentCache
    from .loading import BUNDLED_FOLDER
    from .precision import forward_dtype
    from .text import TextConditioner

_HOMES = {
    "BUNDLED_FOLDER": ".loading",
    "BaseModel": ".base_model",
    "Denoiser": ".denoise",
    "LatentCache": ".latents",
    "TextConditioner": ".text",
    "forward_dtype": ".precision",
}
__all__ = [
    "BUNDLED_FOLDER",
    "BaseModel",
    "Denoiser",
    "LatentCache",
    "TextConditioner",
    "forward_dtype",
]
__getattr__ = public_names(__name__, _HOMES)
