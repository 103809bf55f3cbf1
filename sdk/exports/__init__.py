"""Packs in the formats of other tools, and back. Each format has one file."""

from __future__ import annotations

FORMATS = ("onnx", "lora", "diffusers", "webui")
LORA_DIALECTS = ("peft", "kohya")
