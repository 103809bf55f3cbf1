"""Exported models without torch: numpy, onnxruntime, tokenizers and Pillow are all it takes."""

from __future__ import annotations
