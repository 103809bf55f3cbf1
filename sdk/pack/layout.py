"""How a pack's folder is laid out: names of files and keys, and how large they may be."""

from __future__ import annotations

import re

FORMAT_VERSION = 1
LATER_VERSION = 2  # K and V in low rank, or tokens with a row for each of several text encoders
MANIFEST = "personalizer.json"
WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"
LORA = "pytorch_lora_weights.safetensors"
UNET = "unet.safetensors"
REFERENCE = "reference.png"
BY_PRODUCTS = (
    "README.md",
    "attention.png",
    "masks.png",
    "mask-new[1-8].png",
    "samples.png",
    "metrics.jsonl",
)  # patterns, not read again
KEY = "{layer}.processor.to_{which}_custom_diffusion.weight"
KEY_PATTERN = re.compile(r"(?P<layer>.+\.attn2)\.processor\.to_(?P<which>[kv])_custom_diffusion\.weight")
LORA_KEY = "unet.{layer}.to_{which}.lora_{side}.weight"
LORA_KEY_PATTERN = re.compile(r"unet\.(?P<layer>.+\.attn2)\.to_(?P<which>[kv])\.lora_(?P<side>[AB])\.weight")
MOST_FILES = 64
TOKEN_LIMIT = 1 << 20  # bytes of a token's file, which holds one row
_SMALL, _LARGE = 64 << 20, 16 << 30  # bytes


def file_limit(name: str) -> int:
    """Return the most bytes that a file of a pack may have."""
    return _LARGE if name in (WEIGHTS, LORA, UNET) else _SMALL
