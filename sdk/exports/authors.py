"""Packs out of the files that the methods' authors publish.

Custom Diffusion's ``delta.bin`` (absolute weights, or added low-rank factors), the ``delta_epoch=*.ckpt`` of Custom
Diffusion and DisenDiff with CompVis names, and diffusers' ``pytorch_custom_diffusion_weights`` folders, AttenCraft's
among them. Most are pickles: they are read only when asked for, and then with ``weights_only=True``, which runs no
code.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..concepts import MAX_CONCEPTS, Concept, is_token, resolve_concepts
from ..disk.learned import check_finite
from ..disk.reading import as_path, read_bytes
from ..errors import InputError, MissingFileError, PackError
from ..families.layers import cross_attention_layers
from ..model.base_model import BaseModel
from ..pack import ConceptPack, read_tensors
from ..printable import printable
from ..unet.matrices import Matrix

log = logging.getLogger("sdk")
_LARGEST = 8 << 30  # bytes; a file of all K and V has 77 million
_MOST_FILES = 100  # in a folder that are looked at for tokens
_DIFFUSERS = re.compile(r"(?P<layer>.+\.attn2)\.processor\.to_(?P<which>[kv])_custom_diffusion\.weight")
_PLAIN = re.compile(r"(?P<layer>.+\.attn2)\.to_(?P<which>[kv])\.weight")
_COMPVIS = re.compile(
    r"model\.diffusion_model\.(?P<block>(?:input_blocks|output_blocks)\.\d{1,2}\.1|middle_block\.1)"
    r"(?P<rest>\.transformer_blocks\.\d{1,2}\.attn2)\.to_(?P<which>[kv])\.weight"
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# SD 1.x and 2.x: two attentions a level on the way down, each level opened by a downsampler; three on the way up.
_BLOCKS = {"middle_block.1": "mid_block.attentions.0"}
_BLOCKS |= {f"input_blocks.{1 + 3 * i + j}.1": f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)}
_BLOCKS |= {f"output_blocks.{3 * i + j}.1": f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)}

Weights = dict[tuple[str, str], Tensor | tuple[Tensor, Tensor]]  # by layer and letter: weights, or factors u and v


def compvis_to_diffusers(block: str) -> str | None:
    """Return diffusers' name of a CompVis attention block of SD 1.x or 2.x, ``input_blocks.4.1`` and so on."""
    return _BLOCKS.get(block)


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
        NotFiniteError: it holds values that are no numbers.
    """
    source = as_path(path)
    resolved = resolve_concepts(concepts)
    if os.path.isdir(source):
        weights, tokens = _folder(source, allow_pickle)
    else:
        weights, tokens = _split(_read(source, allow_pickle), source)
    if len(tokens) != len(resolved):
        raise InputError(f"{source} holds {len(tokens)} tokens; name as many classes, in their order")
    context = base.base.context
    rows = [_row(token, value, context, source) for token, value in tokens.items()]
    pack = ConceptPack(
        concepts=[Concept(c.noun, name) for c, name in zip(resolved, _usable(list(tokens)), strict=True)],
        base=base.base,
        key_value=_whole(weights, base, source),
        embeddings=torch.stack([row.float() for row in rows]),
        method="imported",
        provenance={"file": printable(source.name)},
    )
    pack.check_finite(str(source))
    return pack


def _whole(weights: Weights, base: BaseModel, source: Path) -> dict[str, tuple[Matrix, Matrix]]:
    """K and V of every layer, factors multiplied and added to the base model's own."""
    layers = cross_attention_layers(base.pipe.unet)
    pairs: dict[str, dict[str, Tensor]] = {}
    for (layer, which), found in weights.items():
        if layer not in layers:
            raise PackError(f"{source} has a layer {layer} that the base model lacks; load its base model")
        module = getattr(layers[layer], f"to_{which}")
        own = getattr(module, "base_layer", module).weight
        first, last = found if isinstance(found, tuple) else (found, found)
        factors = first is not last
        if first.ndim != 2 or last.ndim != 2 or (factors and first.shape[1] != last.shape[0]):
            raise PackError(f"{source} is damaged: the weights of {layer} are no matrices, or do not multiply")
        shape = (first.shape[0], last.shape[1])
        if shape != own.shape or first.shape[1] > max(own.shape):
            raise PackError(f"{source} was made for another base model: {layer} has {list(shape)} weights")
        check_finite(source, [(layer, first), (layer, last)])
        full = own.detach().float().cpu() + first.float() @ last.float() if factors else first.float()
        pairs.setdefault(layer, {})[which] = full
    if any(set(pair) != {"k", "v"} for pair in pairs.values()):
        raise PackError(f"{source} lacks K or V of a layer; it is incomplete")
    return {layer: (pair["k"], pair["v"]) for layer, pair in pairs.items()}


def _usable(tokens: list[str]) -> list[str]:
    """Tokens as this package writes them; others become the next free ``<newN>``, with a note."""
    named: list[str] = []
    for index, token in enumerate(tokens):
        name = token
        if not is_token(name) or name.lower() in (other.lower() for other in named):
            free = (f"<new{n}>" for n in range(index + 1, 3 * MAX_CONCEPTS))
            name = next(each for each in free if each not in (other.lower() for other in (*named, *tokens)))
            log.warning("the token %s of the file cannot be used; write %s", printable(repr(token), 80), name)
        named.append(name)
    return named


def _row(token: str, value: Any, context: int, source: Path) -> Tensor:
    """A token's embedding, ``[context]``; also of a table with one row."""
    row = _tensor(value, f"the embedding of {token}", source)
    if row.numel() != context or row.ndim > 2:
        raise PackError(f"{source} is of another base model: its tokens are not {context} wide")
    check_finite(source, [("a token", row)])
    return row.flatten()


def _tensor(value: Any, name: str, source: Path) -> Tensor:
    """A value that is a plain tensor of floating-point numbers; a file may hold any other kind there."""
    plain = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    if not plain or value.dtype not in _FLOATS:
        raise PackError(f"{source} is damaged: {name} is no tensor of floating-point numbers")
    return value.detach()


def _table(value: Any, name: str, source: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PackError(f"{source} is damaged: {name} is no table of names")
    return value


def _read(file: Path, allow_pickle: bool) -> dict[str, Any]:
    content = read_bytes(file, limit=_LARGEST, kind=PackError)
    if file.suffix == ".safetensors":
        return dict(read_tensors(content, lambda reason: PackError(f"{file} is damaged ({reason}); copy it again")))
    if not allow_pickle:
        raise InputError(f"{file} is a pickle; if you trust it, say so with allow_pickle=True")
    try:
        _check_stored(content)
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader of pickles has no errors of its own
        raise PackError(f"{file} holds more than weights, or is damaged; it was not read") from error
    return _table(value, "its content", file)


def _check_stored(content: bytes) -> None:
    """Refuse archives that grow when they are read; those of torch are not compressed."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed")


def _split(content: dict[str, Any], source: Path) -> tuple[Weights, dict[str, Any]]:
    """Sort an author's file into weights and tokens, in order."""
    if "unet" in content and "modifier_token" in content:  # Custom Diffusion's delta.bin
        return _weights(content["unet"], source), _table(content["modifier_token"], "modifier_token", source)
    state = _table(content.get("state_dict", content), "state_dict", source)
    if "embed" not in state:
        return _weights(state, source), {}
    rows = _tensor(state["embed"], "embed", source)
    if rows.ndim != 2 or len(rows) > MAX_CONCEPTS:
        raise PackError(f"{source} is damaged: embed has shape {list(rows.shape)}")
    return _weights(state, source), {f"<new{i + 1}>": row for i, row in enumerate(rows)}


def _folder(folder: Path, allow_pickle: bool) -> tuple[Weights, dict[str, Any]]:
    """diffusers' layout: one file of weights, one file per token."""
    stem = "pytorch_custom_diffusion_weights"
    files = [folder / f"{stem}{suffix}" for suffix in (".safetensors", ".bin")]
    file = next((f for f in files if os.path.isfile(f)), None)
    if file is None:
        raise MissingFileError(f"{folder} holds no {stem}.safetensors or .bin; give the folder that training wrote")
    try:
        others = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") and f.stem != stem)
    except OSError as error:
        raise PackError(f"{folder} cannot be read: {error.strerror or error}; check its permissions") from error
    if len(others) > _MOST_FILES:
        raise PackError(f"{folder} holds {len(others)} files beside the weights; give the folder that training wrote")
    tokens: dict[str, Any] = {}
    for other in others:
        found = {k: v for k, v in _read(other, allow_pickle).items() if k.startswith("<")}
        if found.keys() & tokens.keys():
            raise PackError(f"{folder} holds a token twice, the second time in {other.name}; remove a file")
        tokens |= found
    return _weights(_read(file, allow_pickle), file), tokens


def _weights(value: Any, source: Path) -> Weights:
    """K and V by layer and letter; Q, which DisenDiff's files carry unchanged, is left out."""
    found: Weights = {}
    for key, weight in _table(value, "its weights", source).items():
        if (match := _COMPVIS.fullmatch(key)) is not None:
            block = compvis_to_diffusers(match["block"])
            if block is None:
                raise PackError(f"{source} has a block {match['block']} that no Stable Diffusion 1 or 2 has")
            layer = block + match["rest"]
        elif (match := _DIFFUSERS.fullmatch(key) or _PLAIN.fullmatch(key)) is not None:
            layer = match["layer"]
        else:
            continue
        if (layer, match["which"]) in found:
            raise PackError(f"{source} is damaged: it holds {layer}.to_{match['which']} twice")
        if isinstance(weight, dict):  # compressed: added to the base
            if not {"u", "v"} <= weight.keys():
                raise PackError(f"{source} is damaged: {key} is neither weights nor their factors")
            found[layer, match["which"]] = (_tensor(weight["u"], key, source), _tensor(weight["v"], key, source))
        else:
            found[layer, match["which"]] = _tensor(weight, key, source)
    if not found:
        raise PackError(f"{source} holds no K and V of cross-attentions; it is none of the authors' formats")
    return found
