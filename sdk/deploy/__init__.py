"""Exported models without torch: numpy, onnxruntime, tokenizers and Pillow are all it takes."""

from __future__ import annotations

from .personalizer import Cancelled, Generation, OnnxPersonalizer

__all__ = ["Cancelled", "Generation", "OnnxPersonalizer"]
