"""Exported models without torch: numpy, onnxruntime, tokenizers and Pillow are all it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from ..rules.drawing import Generation
    from ..runtime import Cancelled
    from .personalizer import OnnxPersonalizer

_HOMES = {"Cancelled": "..runtime", "Generation": "..rules.drawing", "OnnxPersonalizer": ".personalizer"}
__all__ = ["Cancelled", "Generation", "OnnxPersonalizer"]
__getattr__ = public_names(__name__, _HOMES)
