"""What results depend on, hashed whole: every weight, LoRAs in force, noise levels, the vocabulary, the libraries.

A :class:`sdk.model.fingerprint.BaseIdentity` tells models apart whatever their precision, which packs need; this tells
the very same numbers, which checkpoints and kept prior pictures need.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

import torch
from torch import Tensor, nn

from ..model.base_model import BaseModel

_WORDS = 4096  # of 8 bytes, in a line of the sums below
_SMALL = 1 << 16  # bytes; less is hashed as it is
# Of configurations: versions count by themselves, and types by the weights.
_NO_MATTER = ("transformers_version", "torch_dtype", "dtype")
_LIBRARIES = ("torch", "diffusers", "transformers")


def whole_identity(base: BaseModel) -> dict[str, str]:
    """Return hashes of a base model's parts, by name, and what else results depend on.

    The keys: ``unet``, ``vae`` and ``text_encoder`` (weights and their type, LoRAs in force and their strengths),
    ``tokenizer``, ``scheduler``, and ``libraries`` (their major versions); of families with several text encoders those
    of each. Takes a few tenths of a second a gigabyte.
    """
    pipe = base.pipe
    found = {"unet": _module_hash(pipe.unet), "vae": _module_hash(pipe.vae)}
    for part in base.text_parts:
        found[part.name] = _module_hash(part.encoder)
        found[part.tokenizer_name] = _short(_tokenizer_definition(part.tokenizer).encode())
    found["scheduler"] = _short(_configuration(pipe.scheduler).encode())
    found["libraries"] = ", ".join(f"{name} {major_version(importlib.metadata.version(name))}" for name in _LIBRARIES)
    return found


def major_version(version: str) -> str:
    """Return what of a version number changes when results may: ``2.13.0`` is ``2``, ``0.42.1`` is ``0.42``."""
    parts = version.split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def _configuration(part: Any) -> str:
    """A part's class and settings, without what says where it came from."""
    config = part.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {key: value for key, value in values.items() if not key.startswith("_") and key not in _NO_MATTER}
    return f"{type(part).__name__} {json.dumps(kept, sort_keys=True, default=str)}"


def _tokenizer_definition(tokenizer: Any) -> str:
    """Vocabulary, merges and added words."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return f"{tokenizer.model_max_length} {text}"


def _module_hash(module: nn.Module) -> str:
    digest = hashlib.blake2b(_configuration(module).encode() if hasattr(module, "config") else b"", digest_size=16)
    for name, tensor in module.state_dict(keep_vars=True).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_tensor_sums(tensor.detach()))
    for name, layer in module.named_modules():
        strengths = getattr(layer, "scaling", None)
        if isinstance(strengths, dict):  # a layer of PEFT's
            state = [strengths, list(getattr(layer, "active_adapters", [])), getattr(layer, "disable_adapters", False)]
            digest.update(f"{name} {json.dumps(state, sort_keys=True, default=str)} ".encode())
    return digest.hexdigest()


def _tensor_sums(tensor: Tensor) -> bytes:
    """Sums of a tensor's bits along lines and columns: a change of any number changes both.

    They are read as 64-bit integers, which is as fast as the memory; a cryptographic hash takes several times as long.
    """
    if tensor.is_meta:  # offloaded: where its numbers are is not known here
        return str(tuple(tensor.shape)).encode()
    flat = tensor.contiguous().flatten().view(torch.uint8)
    whole = flat.numel() // (8 * _WORDS) * 8 * _WORDS if flat.numel() > _SMALL else 0
    digest = hashlib.blake2b(flat[whole:].cpu().numpy().tobytes(), digest_size=16)
    if whole:
        lines = flat[:whole].view(torch.int64).view(-1, _WORDS)
        for axis in (0, 1):
            digest.update(lines.sum(axis).cpu().numpy().tobytes())
    return digest.digest()


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
