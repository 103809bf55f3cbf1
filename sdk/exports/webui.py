"""A pack for A1111, Forge, ComfyUI, InvokeAI and stable-diffusion.cpp: lossless differences, tokens bundled.

One file, ``NAME.safetensors``: ``lora_unet_<path>_attn2_to_k.diff`` holds trained minus base weights, which these tools
add to their own; ``bundle_emb.NAME-new1.string_to_param.*`` a token. Tools that know no bundled tokens read the files
``NAME-new1.safetensors`` beside it, where the file's name is the word to write.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk.file_names import check_name, concept_word
from .result import Export, claim, default_name, write_tensors

_BUNDLED = {"emb_params": "string_to_param.*"}  # as these tools know the row of a single encoder

if TYPE_CHECKING:
    from ..model.base_model import BaseModel
    from ..pack import ConceptPack


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of the command line."""
    group.add_argument("--name", help="of files and in prompts; default the pack folder's")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :func:`export`."""
    return {"name": arguments.name or default_name(arguments.pack)}


def export(pack: ConceptPack, base: BaseModel, folder: str | Path, *, name: str = "pack") -> Export:
    """Write a pack for the user interfaces: the weights' file, then one per token.

    Args:
        pack: what to export.
        base: its base model.
        folder: where to write.
        name: of the files and in prompts; at most 64 letters, digits, ``-`` and ``_``.

    Returns:
        Its prompts say what to type in A1111 and Forge, and in ComfyUI (the weights' file loaded by a LoRA node at
        strength 1).

    Raises:
        InputError: a name that is no file name, or a pack that differences of K and V cannot hold.
    """
    import torch

    from .changes import as_learned, key_value_deltas, named
    from .modelspec import modelspec
    from .tokens import rows_of

    prompt, comfy_prompt = prompts_for(pack, name)
    words = _words(pack, name)
    deltas = key_value_deltas(pack, base)
    if pack.low_rank:  # as a LoRA, which these tools read likewise, at a twentieth of the size
        tensors = named(*as_learned(pack), "kohya", torch.float16)
    else:
        tensors = {f"lora_unet_{key.replace('.', '_')}.diff": d.half().contiguous() for key, d in deltas.items()}
    destination = claim(folder, [f"{each}.safetensors" for each in (name, *words.values())])
    files = []
    for concept, row in zip(pack.concepts, pack.embeddings, strict=True):
        word = words[concept.token]
        held = rows_of(row, pack.base)
        tensors |= {f"bundle_emb.{word}.{_BUNDLED.get(key, key)}": each.clone() for key, each in held.items()}
        files.append((destination / f"{word}.safetensors", held))
    weights = destination / f"{name}.safetensors"
    write_tensors(weights, tensors, modelspec(pack, "lora", words) | {"ss_network_module": "lycoris.kohya"})
    for path, embedding in files:
        write_tensors(path, embedding, modelspec(pack, "textual-inversion", words))
    prompts = {"A1111, Forge": prompt, "ComfyUI": comfy_prompt}
    usage = [f"diffusers takes {path.name} by load_textual_inversion(FILE, token={path.stem!r})" for path, _ in files]
    return Export([weights, *(path for path, _ in files)], usage, prompts=prompts)


def loads_in(pack: ConceptPack, command: str, name: str) -> list[str]:
    """What loads the export, for ``verify``."""
    typed, comfy = prompts_for(pack, name)
    return [f"  {command} webui      A1111, Forge: {typed!r}", f"                      ComfyUI: {comfy!r}"]


def prompts_for(pack: ConceptPack, name: str) -> tuple[str, str]:
    """Return what to type in A1111 and Forge, and in ComfyUI, for an export of this name.

    Raises:
        InputError: a name that is no file name.
    """
    check_name(name)
    typed = comfy = pack.prompt
    for token, word in _words(pack, name).items():
        typed, comfy = typed.replace(token, word), comfy.replace(token, f"embedding:{word}")
    return f"{typed} <lora:{name}:1>", comfy


def _words(pack: ConceptPack, name: str) -> dict[str, str]:
    """Tokens to words that these tools take: file names of embeddings."""
    return {token: f"{name}-{concept_word(index)}" for index, token in enumerate(pack.tokens)}
