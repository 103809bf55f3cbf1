"""The text encoder of old single files, whose names lack ``text_model``: diffusers does not find it there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import BaseModelError
from ..families.remembering import inner

_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_FIRST = "embeddings.token_embedding.weight"


def older_text_encoder(file: Path, names: Collection[str], config: str, dtype: torch.dtype) -> Any:
    """Return the text encoder of a file with the names of programs of before 2023.

    Args:
        file: the checkpoint.
        names: of its weights.
        config: a folder in diffusers' layout, whose ``text_encoder`` says how it is built.
        dtype: of the weights.

    Returns:
        The module, or ``None`` where the file has the usual names or no encoder of this kind.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    prefix = next((each for each in _PREFIXES if f"{each}{_FIRST}" in names), None)
    if prefix is None:
        return None
    encoder: Any = CLIPTextModel(CLIPTextConfig.from_pretrained(Path(config) / "text_encoder"))
    own = inner(encoder)
    wanted = own.state_dict()
    found = _weights(file, prefix, list(wanted))
    wrong = next((n for n, w in wanted.items() if n not in found or found[n].shape != w.shape), None)
    if wrong is not None:
        raise BaseModelError(f"the file {file.name!r} is damaged ({prefix}{wrong} is missing or of another shape)")
    own.load_state_dict(found)
    return torch.nn.Module.to(encoder, dtype).eval()


def _weights(file: Path, prefix: str, names: list[str]) -> dict[str, Tensor]:
    """Weights of a file by their names behind a prefix; those that it lacks are left out."""
    if file.suffix == ".ckpt":
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        table = held.get("state_dict", held)
        return {name: table[prefix + name] for name in names if prefix + name in table}
    with safe_open(file, "pt") as opened:
        there = set(opened.keys())
        return {name: opened.get_tensor(prefix + name) for name in names if prefix + name in there}
