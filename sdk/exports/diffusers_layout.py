"""A pack in diffusers' Custom Diffusion layout, for ``UNet2DConditionModel.load_attn_procs``.

It is called with ``_pipeline=pipe``; without that it reads the file, sets nothing and does not say so (diffusers 0.18
to 0.42 at least).

The layout's safetensors file is what a pack is anyway. diffusers cannot load it: its loader wants an entry for every
self-attention too, empty, and safetensors holds no empty ones. The ``.bin`` file has them; it is a pickle, so it is
only written when asked for. Our own loader, :func:`load_into`, takes any pack and any pipeline.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OutputError
from .result import MARK, Export, claim

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

    from ..model.base_model import BaseModel
    from ..pack import ConceptPack

BINARY = "pytorch_custom_diffusion_weights.bin"


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of the command line."""
    group.add_argument("--pickle", action="store_true", help="also the .bin that diffusers loads by itself")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :func:`export`."""
    return {"pickle": arguments.pickle}


def export(pack: ConceptPack, base: BaseModel, folder: str | Path, *, pickle: bool = False) -> Export:
    """Write the layout's weights and one file per token.

    Args:
        pack: what to export.
        base: its base model.
        folder: where to write.
        pickle: also write the ``.bin`` that diffusers loads.

    Raises:
        InputError: a pack that holds other weights than K and V.
    """
    from ..disk.files import write_bytes
    from ..pack import WEIGHTS
    from .tokens import export_tokens

    base.check_base(pack)
    pack.check_storable()
    if pack.unet or not pack.key_value:
        raise InputError(f"diffusers' layout holds K and V; a pack of {pack.method} is none of it")
    if pack.low_rank:
        raise InputError("diffusers' layout holds whole K and V, this pack has changes of low rank; export it to lora")
    destination = claim(folder, [WEIGHTS, *pack.token_files()])
    if pickle and (destination / BINARY).exists() and not (destination / WEIGHTS).exists():
        raise OutputError(f"{destination / BINARY} is no file of an earlier export; give another folder")
    written = [destination / WEIGHTS, *export_tokens(pack, destination)]
    write_bytes(written[0], pack.weights_file(**MARK)[1])
    if pickle:
        written.append(destination / BINARY)
        write_bytes(written[-1], _pickled(pack, base))
    usage = [f"try: sdk.exports.diffusers_layout.load_into(pipe, pack), prompt {pack.prompt!r}"]
    if pickle:
        usage.append(
            f"diffusers itself: pipe.unet.load_attn_procs(DIR, weight_name={BINARY!r}, _pipeline=pipe); without "
            "_pipeline it does nothing and does not say so"
        )
    return Export(written, usage)


def loads_in(pack: ConceptPack, command: str, name: str) -> list[str]:
    """What loads the export, for ``verify``."""
    if pack.low_rank:
        return []
    how = f"diffusers: unet.load_attn_procs with _pipeline=pipe, load_textual_inversion, {pack.prompt!r}"
    return [f"  {command} diffusers --pickle   {how}"]


def _pickled(pack: ConceptPack, base: BaseModel) -> bytes:
    """The layout's ``.bin`` file: an entry for every attention, empty where a pack has nothing to say."""
    import torch

    entries: dict[str, Any] = {}
    for name in base.pipe.unet.attn_processors:
        layer = name.removesuffix(".processor")
        if layer not in pack.key_value:
            entries[name] = {}
            continue
        for which, weight in zip("kv", pack.key_value[layer], strict=True):
            assert isinstance(weight, torch.Tensor)  # low rank was refused
            entries[f"{name}.to_{which}_custom_diffusion.weight"] = weight.float()
    content = io.BytesIO()
    torch.save(entries, content)
    return content.getvalue()


def load_into(pipe: StableDiffusionPipeline, pack: ConceptPack) -> None:
    """Put a pack into a plain pipeline for good: K and V of its layers, and its tokens.

    The pipeline then draws ``<new1> cat`` by itself, with any of its own features.

    Raises:
        InputError: layers the pipeline's UNet does not have, or tokens it already knows.
    """
    import torch

    from ..families.layers import cross_attention_layers
    from ..unet.matrices import whole

    pack.check_storable()
    layers = cross_attention_layers(pipe.unet)
    why = pack.misfit(pipe.unet)
    if why is not None:
        raise InputError(f"the pack does not fit the pipeline's UNet: {why}; load the pack's base model")
    known = set(pipe.tokenizer.get_vocab()) & set(pack.tokens)
    if known:
        raise InputError(f"the pipeline's tokenizer already knows {', '.join(sorted(known))}; load a fresh one")
    with torch.no_grad():
        for name, pair in pack.key_value.items():
            for module, matrix in zip((layers[name].to_k, layers[name].to_v), pair, strict=True):
                module.weight.copy_(whole(matrix, module.weight))
        for name, weight in pack.unet.items():
            parameter = pipe.unet.get_parameter(name)
            parameter.copy_(weight.to(parameter))
    pipe.load_textual_inversion([_row(row) for row in pack.embeddings], token=pack.tokens)


def _row(row: Tensor) -> dict[str, Tensor]:
    return {"emb_params": row[None].float()}
