"""A pack as a LoRA: the closest matrices of a given rank to what it changes, in the dialects that tools read.

dW ~ (alpha / r) up down with up = U S, down = V^T of dW's singular value decomposition and alpha = r. The rank is the
smallest whose error, relative to all of dW, is at most what is asked for; at full rank the pack is reproduced. What was
learned in low rank is written as it is, without any error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk.checked import shown
from ..errors import InputError
from .result import Export, claim, write_tensors

if TYPE_CHECKING:
    from ..model.base_model import BaseModel
    from ..pack import ConceptPack

DIALECTS = ("peft", "kohya")
FILE = "pytorch_lora_weights.safetensors"


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of the command line."""
    group.add_argument("--dialect", choices=DIALECTS, default="peft", help="kohya: for every other tool")
    group.add_argument("--error", type=float, default=0.05, help="largest relative error of the changes; default 0.05")
    group.add_argument("--rank", type=int, help="instead of --error")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :func:`export`."""
    return {"dialect": arguments.dialect, "error": arguments.error, "rank": arguments.rank}


def export(
    pack: ConceptPack,
    base: BaseModel,
    folder: str | Path,
    *,
    dialect: str = "peft",
    error: float = 0.05,
    rank: int | None = None,
    half: bool = True,
) -> Export:
    """Write a pack's K and V as a LoRA, ``pytorch_lora_weights.safetensors``, and its tokens in files of their own.

    Args:
        pack: what to export.
        base: its base model.
        folder: where to write.
        dialect: ``"peft"``, diffusers' own keys, or ``"kohya"``, which every other tool reads too.
        error: largest relative error of the changes; the rank follows from it. A pack in low rank is exact anyway.
        rank: instead of ``error``.
        half: float16 matrices instead of float32; their rounding is not in ``error``.

    Returns:
        Its figures are the ``rank`` of every matrix and the relative Frobenius ``error`` of all changes together.

    Raises:
        InputError: an unknown dialect, a rank below 1, an error outside of [0, 1], or a pack that a LoRA cannot hold.
        NotFiniteError: changes that are no numbers, or overflow float16.
    """
    import torch

    from .changes import as_learned, closest, key_value_deltas, named
    from .modelspec import modelspec
    from .tokens import export_tokens

    if dialect not in DIALECTS:
        raise InputError(f"there is no LoRA dialect {dialect!r}; choose one of {', '.join(DIALECTS)}")
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise InputError(f"the rank of a LoRA must be a whole number of at least 1, got {shown(rank)}")
    if not isinstance(error, (int, float)) or not 0 <= error <= 1:
        raise InputError(f"the error of a LoRA must lie between 0 and 1, got {shown(error)}")
    deltas = key_value_deltas(pack, base)
    if pack.low_rank and rank is None:
        (factors, chosen), made = as_learned(pack), 0.0
    else:
        factors, chosen, made = closest(deltas, rank, error)
    tensors = named(factors, chosen, dialect, torch.float16 if half else torch.float32)
    metadata = modelspec(pack, "lora") | {"format": "pt"}
    destination = claim(folder, [FILE, *pack.token_files()])
    path = destination / FILE
    write_tensors(path, tensors, metadata)
    paths = [path, *export_tokens(pack, destination)]
    usage = [
        f"rank {chosen}, relative error {made:.3f}",
        f"try: load_lora_weights and load_textual_inversion of diffusers, prompt {pack.prompt!r}",
    ]
    if dialect == "peft":
        usage.append("ComfyUI reads none of these names and says nothing to a user: export --dialect kohya for it")
    return Export(paths, usage, figures={"rank": chosen, "error": made})


def loads_in(pack: ConceptPack, command: str, name: str) -> list[str]:
    """What loads the export, for ``verify``."""
    return [
        f"  {command} lora       diffusers: load_lora_weights, load_textual_inversion, {pack.prompt!r}",
        "                      (for ComfyUI and others --dialect kohya)",
    ]
