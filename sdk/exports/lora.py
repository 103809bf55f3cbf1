"""A pack as a LoRA: the closest matrices of a given rank to what it changes, in the dialects that tools read.

dW ~ (alpha / r) up down with up = U S, down = V^T of dW's singular value decomposition and alpha = r. The rank is the
smallest whose error, relative to all of dW, is at most what is asked for; at full rank the pack is reproduced.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk.checked import shown
from ..errors import InputError
from .result import Export, claim, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

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
        error: largest relative error of the changes; the rank follows from it.
        rank: instead of ``error``.
        half: float16 matrices instead of float32; their rounding is not in ``error``.

    Returns:
        Its figures are the ``rank`` of every matrix and the relative Frobenius ``error`` of all changes together.

    Raises:
        InputError: an unknown dialect, a rank below 1, an error outside of [0, 1], or a pack that a LoRA cannot hold.
        NotFiniteError: changes that are no numbers, or overflow float16.
    """
    import torch
    import torch.nn.functional as F

    from .deltas import key_value_deltas
    from .modelspec import modelspec
    from .tokens import export_tokens

    if dialect not in DIALECTS:
        raise InputError(f"there is no LoRA dialect {dialect!r}; choose one of {', '.join(DIALECTS)}")
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise InputError(f"the rank of a LoRA must be a whole number of at least 1, got {shown(rank)}")
    if not isinstance(error, (int, float)) or not 0 <= error <= 1:
        raise InputError(f"the error of a LoRA must lie between 0 and 1, got {shown(error)}")
    parts = {name: torch.linalg.svd(d, full_matrices=False) for name, d in key_value_deltas(pack, base).items()}
    spectra = [s for _, s, _ in parts.values()]
    chosen = rank if rank is not None else smallest_rank(spectra, error)
    dtype = torch.float16 if half else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, (u, s, vh) in parts.items():
        # Smaller matrices are filled up with zeros: tools disagree on ranks that differ from layer to layer.
        missing = max(chosen - len(s), 0)
        up = F.pad((u * s)[:, :chosen], (0, missing)).to(dtype)
        tensors |= _named(name, up, F.pad(vh[:chosen], (0, 0, 0, missing)).to(dtype), dialect)
    metadata = modelspec(pack, "lora") | {"format": "pt"}
    destination = claim(folder, [FILE, *pack.token_files()])
    path = destination / FILE
    write_tensors(path, {name: t.contiguous() for name, t in tensors.items()}, metadata)
    paths = [path, *export_tokens(pack, destination)]
    made = relative_error(spectra, chosen)
    usage = [
        f"rank {chosen}, relative error {made:.3f}",
        f"try: load_lora_weights and load_textual_inversion of diffusers, prompt {pack.prompt!r}",
    ]
    return Export(paths, usage, figures={"rank": chosen, "error": made})


def loads_in(pack: ConceptPack, command: str, name: str) -> list[str]:
    """What loads the export, for ``verify``."""
    return [f"  {command} lora       diffusers: load_lora_weights, load_textual_inversion, {pack.prompt!r}"]


def relative_error(spectra: list[Tensor], rank: int) -> float:
    """Return the Frobenius error of cutting every matrix at ``rank``, relative to all of them together."""
    lost = sum(float(s[rank:].double().square().sum()) for s in spectra)
    total = sum(float(s.double().square().sum()) for s in spectra)
    return (lost / total) ** 0.5 if total else 0.0


def smallest_rank(spectra: list[Tensor], error: float) -> int:
    """Return the smallest rank whose :func:`relative_error` is at most ``error``."""
    full = max(len(s) for s in spectra)
    return next((rank for rank in range(1, full) if relative_error(spectra, rank) <= error), full)


def _named(name: str, up: Tensor, down: Tensor, dialect: str) -> dict[str, Tensor]:
    import torch

    if dialect == "peft":
        return {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    key = "lora_unet_" + name.replace(".", "_")
    alpha = torch.tensor(float(down.shape[0]), dtype=down.dtype)
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
