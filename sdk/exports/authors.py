"""Packs out of the files that the methods' authors publish.

Custom Diffusion's ``delta.bin`` (absolute weights, or added low-rank factors), the ``delta_epoch=*.ckpt`` of Custom
Diffusion and DisenDiff with CompVis names, and diffusers' ``pytorch_custom_diffusion_weights`` folders, AttenCraft's
among them. Most are pickles: they are read only when asked for, and then with ``weights_only=True``, which runs no
code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..concepts import Concept, resolve_concepts
from ..errors import InputError, MissingFileError, PackError
from ..model.base_model import BaseModel
from ..pack import ConceptPack

_DIFFUSERS = re.compile(r"(?P<layer>.+\.attn2)\.processor\.to_(?P<which>[kv])_custom_diffusion\.weight")
_PLAIN = re.compile(r"(?P<layer>.+\.attn2)\.to_(?P<which>[kv])\.weight")
_COMPVIS = re.compile(
    r"model\.diffusion_model\.(?P<block>(?:input_blocks|output_blocks)\.\d+\.1|middle_block\.1)"
    r"(?P<rest>\.transformer_blocks\.\d+\.attn2)\.to_(?P<which>[kv])\.weight"
)


def compvis_to_diffusers(block: str) -> str:
    """Return diffusers' name of a CompVis attention block of SD 1.x or 2.x: ``input_blocks.4.1`` and so on."""
    if block == "middle_block.1":
        return "mid_block.attentions.0"
    kind, number = block.split(".")[0], int(block.split(".")[1])
    if kind == "input_blocks":  # 1, 2, 4, 5, 7, 8: two per level, each level opened by a downsampler
        return f"down_blocks.{(number - 1) // 3}.attentions.{(number - 1) % 3}"
    return f"up_blocks.{number // 3}.attentions.{number % 3}"  # 3 to 11: three per level


def import_pack(
    path: str | Path,
    concepts: Sequence[str | Concept],
    base: BaseModel,
    *,
    allow_pickle: bool = False,
) -> ConceptPack:
    """Read an author's file or folder as a pack.

    Args:
        path: ``delta.bin``, ``delta_epoch=*.ckpt``, a safetensors file with the same keys, or a folder in diffusers'
            layout.
        concepts: class nouns (or :class:`Concept` objects), which these files do not hold, in the order of the tokens.
        base: the base model that the weights belong to.
        allow_pickle: read ``.bin``, ``.ckpt`` and ``.pt``; without running code they may hold.

    Raises:
        MissingFileError: nothing there.
        InputError: a pickle that was not asked for, or another number of tokens than of concepts.
        PackError: a file that is none of these.
    """
    source = Path(path)
    resolved = resolve_concepts(concepts)
    if source.is_dir():
        weights, tokens = _folder(source, allow_pickle)
    else:
        weights, tokens = _split(_read(source, allow_pickle), source)
    if len(tokens) != len(resolved):
        raise InputError(f"{source} holds {len(tokens)} tokens; name as many classes, in their order")
    unet = base.pipe.unet
    pairs: dict[str, dict[str, Tensor]] = {}
    for (layer, which), weight in weights.items():
        try:
            own = unet.get_submodule(layer).get_parameter(f"to_{which}.weight")
        except AttributeError as error:
            raise PackError(f"{source} has a layer {layer} that the base model lacks; load its base model") from error
        shape = tuple(weight["base"].shape if "base" in weight else (len(weight["u"]), weight["v"].shape[-1]))
        if shape != own.shape:
            raise PackError(f"{source} was made for another base model: {layer} has {list(shape)} weights")
        full = weight["base"] if "base" in weight else own.detach().float().cpu() + weight["u"] @ weight["v"]
        pairs.setdefault(layer, {})[which] = full
    if any(set(pair) != {"k", "v"} for pair in pairs.values()):
        raise PackError(f"{source} lacks K or V of a layer; it is incomplete")
    if any(row.numel() != base.base.context for row in tokens.values()):
        raise PackError(f"{source} is of another base model: its tokens are not {base.base.context} wide")
    named = [Concept(c.noun, token or c.token) for c, token in zip(resolved, tokens, strict=True)]
    return ConceptPack(
        concepts=named,
        base=base.base,
        key_value={layer: (pair["k"], pair["v"]) for layer, pair in pairs.items()},
        embeddings=torch.stack([row.float().flatten() for row in tokens.values()]),
        method="imported",
        provenance={"file": source.name},
    )


Weights = dict[tuple[str, str], dict[str, Tensor]]


def _read(file: Path, allow_pickle: bool) -> dict[str, Any]:
    if not file.is_file():
        raise MissingFileError(f"there is no file {file}; check the path")
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except SafetensorError as error:
            raise PackError(f"{file} is damaged; copy it again") from error
    if not allow_pickle:
        raise InputError(f"{file} is a pickle; if you trust it, say so with allow_pickle=True")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise PackError(f"{file} holds more than weights, or is damaged; it was not read") from error
    if not isinstance(content, dict):
        raise PackError(f"{file} holds no table of weights")
    return content


def _split(content: dict[str, Any], source: Path) -> tuple[Weights, dict[str, Tensor]]:
    """Sort an author's file into weights and tokens, in order."""
    if "unet" in content and "modifier_token" in content:  # Custom Diffusion's delta.bin
        return _weights(content["unet"], source), {t: torch.as_tensor(r) for t, r in content["modifier_token"].items()}
    state = content.get("state_dict", content)
    rows = state.get("embed")
    tokens = {f"<new{i + 1}>": row for i, row in enumerate(rows)} if rows is not None else {}
    return _weights(state, source), tokens


def _folder(folder: Path, allow_pickle: bool) -> tuple[Weights, dict[str, Tensor]]:
    """diffusers' layout: one file of weights, one file per token."""
    stem = "pytorch_custom_diffusion_weights"
    files = [folder / f"{stem}{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise MissingFileError(f"{folder} holds no {stem}.safetensors or .bin; give the folder that training wrote")
    tokens: dict[str, Tensor] = {}
    for other in sorted(folder.iterdir()):
        if other.suffix in (".safetensors", ".bin") and other.stem != stem:
            tokens |= {k: v for k, v in _read(other, allow_pickle).items() if k.startswith("<")}
    return _weights(_read(file, allow_pickle), file), tokens


def _weights(state: dict[str, Any], source: Path) -> Weights:
    """K and V by layer and letter; Q, which DisenDiff's files carry unchanged, is left out."""
    found: Weights = {}
    for key, value in state.items():
        if (match := _COMPVIS.fullmatch(key)) is not None:
            layer = compvis_to_diffusers(match["block"]) + match["rest"]
        elif (match := _DIFFUSERS.fullmatch(key) or _PLAIN.fullmatch(key)) is not None:
            layer = match["layer"]
        else:
            continue
        if isinstance(value, dict):  # compressed: added to the base
            if not {"u", "v"} <= value.keys():
                raise PackError(f"{source} is damaged: {key} is neither weights nor their factors")
            found[layer, match["which"]] = {name: value[name].float() for name in ("u", "v")}
        else:
            found[layer, match["which"]] = {"base": value.float()}
    if not found:
        raise PackError(f"{source} holds no K and V of cross-attentions; it is none of the authors' formats")
    return found
