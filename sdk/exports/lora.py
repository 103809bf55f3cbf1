"""A pack as a LoRA: the closest matrices of a given rank to what it changes, in the dialects that tools read.

dW ~ (alpha / r) up down with up = U S, down = V^T of dW's singular value decomposition and alpha = r. The rank is the
smallest whose error, relative to all of dW, is at most what is asked for; at full rank the pack is reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..files import prepare_output_folder, write_bytes
from ..pack import ConceptPack
from . import LORA_DIALECTS
from .deltas import key_value_deltas
from .modelspec import modelspec

if TYPE_CHECKING:
    from ..personalizer import Personalizer

FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class LoraExport:
    """What was written.

    Attributes:
        path: of the file.
        rank: of every matrix.
        error: relative Frobenius error of all changes together.
    """

    path: Path
    rank: int
    error: float


def export_lora(
    pack: ConceptPack,
    personalizer: Personalizer,
    folder: str | Path,
    *,
    dialect: str = "peft",
    error: float = 0.05,
    rank: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> LoraExport:
    """Write a pack's K and V as a LoRA, ``pytorch_lora_weights.safetensors``; its tokens travel in their own files.

    Args:
        pack: what to export.
        personalizer: its base model.
        folder: where to write.
        dialect: ``"peft"``, diffusers' own keys, or ``"kohya"``, which every other tool reads too.
        error: largest relative error of the changes; the rank follows from it.
        rank: instead of ``error``.
        dtype: of the matrices; their rounding is not in ``error``.

    Raises:
        InputError: an unknown dialect, a rank below 1, or a pack that a LoRA cannot hold.
    """
    if dialect not in LORA_DIALECTS:
        raise InputError(f"there is no LoRA dialect {dialect!r}; choose one of {', '.join(LORA_DIALECTS)}")
    if rank is not None and rank < 1:
        raise InputError(f"the rank of a LoRA must be at least 1, got {rank}")
    parts = {name: torch.linalg.svd(d, full_matrices=False) for name, d in key_value_deltas(pack, personalizer).items()}
    spectra = [s for _, s, _ in parts.values()]
    chosen = rank if rank is not None else smallest_rank(spectra, error)
    tensors: dict[str, Tensor] = {}
    for name, (u, s, vh) in parts.items():
        # Smaller matrices are filled up with zeros: tools disagree on ranks that differ from layer to layer.
        missing = max(chosen - len(s), 0)
        up = F.pad((u * s)[:, :chosen], (0, missing)).to(dtype)
        tensors |= _named(name, up, F.pad(vh[:chosen], (0, 0, 0, missing)).to(dtype), dialect)
    metadata = modelspec(pack, "lora") | {"format": "pt"}
    path = Path(folder) / FILE
    prepare_output_folder(path.parent)
    write_bytes(path, save({name: t.contiguous() for name, t in tensors.items()}, metadata=metadata))
    return LoraExport(path, chosen, relative_error(spectra, chosen))


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
    if dialect == "peft":
        return {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    key = "lora_unet_" + name.replace(".", "_")
    alpha = torch.tensor(float(down.shape[0]), dtype=down.dtype)
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
