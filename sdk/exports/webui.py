"""A pack for A1111, Forge, ComfyUI, InvokeAI and stable-diffusion.cpp: lossless differences, tokens bundled.

One file, ``NAME.safetensors``: ``lora_unet_<path>_attn2_to_k.diff`` holds trained minus base weights, which these tools
add to their own; ``bundle_emb.NAME-new1.string_to_param.*`` a token. Tools that know no bundled tokens read the files
``NAME-new1.safetensors`` beside it, where the file's name is the word to write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from ..errors import InputError
from ..files import prepare_output_folder, write_bytes
from ..pack import ConceptPack
from .deltas import key_value_deltas
from .modelspec import modelspec

if TYPE_CHECKING:
    from ..personalizer import Personalizer

_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class WebuiExport:
    """What was written.

    Attributes:
        paths: the weights' file, then one per token.
        prompt: what to type in A1111 and Forge.
        comfy_prompt: what to type in ComfyUI, the weights' file loaded by a LoRA node at strength 1.
    """

    paths: list[Path]
    prompt: str
    comfy_prompt: str


def export_webui(pack: ConceptPack, personalizer: Personalizer, folder: str | Path, name: str) -> WebuiExport:
    """Write a pack for the user interfaces.

    Args:
        pack: what to export.
        personalizer: its base model.
        folder: where to write.
        name: of the files and in prompts; letters, digits, ``-`` and ``_``.

    Raises:
        InputError: a name that is no file name, or a pack that differences of K and V cannot hold.
    """
    prompt, comfy_prompt = prompts_for(pack, name)
    words = _words(pack, name)
    tensors = {
        f"lora_unet_{key.replace('.', '_')}.diff": delta.half().contiguous()
        for key, delta in key_value_deltas(pack, personalizer).items()
    }
    files = []
    for concept, row in zip(pack.concepts, pack.embeddings, strict=True):
        word = words[concept.token]
        tensors[f"bundle_emb.{word}.string_to_param.*"] = row[None].clone()
        path = Path(folder) / f"{word}.safetensors"
        files.append((path, save({"emb_params": row[None].clone()}, metadata=modelspec(pack, "textual-inversion"))))
    weights = Path(folder) / f"{name}.safetensors"
    prepare_output_folder(weights.parent)
    write_bytes(weights, save(tensors, metadata=modelspec(pack, "lora") | {"ss_network_module": "lycoris.kohya"}))
    for path, content in files:
        write_bytes(path, content)
    return WebuiExport([weights, *(path for path, _ in files)], prompt, comfy_prompt)


def prompts_for(pack: ConceptPack, name: str) -> tuple[str, str]:
    """Return what to type in A1111 and Forge, and in ComfyUI, for an export of this name.

    Raises:
        InputError: a name that is no file name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"the name {name!r} goes into prompts and file names; use letters, digits, - and _")
    typed = comfy = pack.prompt
    for token, word in _words(pack, name).items():
        typed, comfy = typed.replace(token, word), comfy.replace(token, f"embedding:{word}")
    return f"{typed} <lora:{name}:1>", comfy


def default_name(folder: str | Path) -> str:
    """Return a pack folder's name as prompts can hold it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(folder).resolve().name).strip("-") or "pack"


def _words(pack: ConceptPack, name: str) -> dict[str, str]:
    """Tokens to words that these tools take: file names of embeddings."""
    return {token: f"{name}-{token.strip('<>')}" for token in pack.tokens}
