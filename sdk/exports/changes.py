"""What a pack changes about its base model: matrix by matrix, as factors of low rank, and in the dialects of LoRA."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..model.base_model import BaseModel
from ..pack import ConceptPack
from ..unet.matrices import LowRank, change

Factors: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""By ``...attn2.to_k``: up ``[hidden, r]`` and down ``[r, context]``."""


def key_value_deltas(pack: ConceptPack, base: BaseModel) -> dict[str, Tensor]:
    """Return trained minus base weights of every K and V, float32 ``[hidden, context]``, by ``...attn2.to_k``.

    Raises:
        BaseModelError: a pack of another base model.
        InputError: a pack that holds other weights than K and V, or none.
    """
    base.check_base(pack)
    pack.check_storable()
    if pack.unet:
        raise InputError(
            f"a pack of {pack.method} changes the whole UNet, which this format cannot hold; export it to onnx"
        )
    if not pack.key_value:
        raise InputError(f"a pack of {pack.method} holds tokens alone; copy its token files, they load everywhere")
    deltas = {}
    for layer, pair in pack.key_value.items():
        module = base.pipe.unet.get_submodule(layer)
        for which, projection, matrix in zip("kv", (module.to_k, module.to_v), pair, strict=True):
            own = getattr(projection, "base_layer", projection).weight
            deltas[f"{layer}.to_{which}"] = change(matrix, own)
    return deltas


def as_learned(pack: ConceptPack) -> tuple[Factors, int]:
    """Return the factors that a pack of low rank has, and their largest rank."""
    found: Factors = {}
    for layer, pair in pack.key_value.items():
        for which, matrix in zip("kv", pair, strict=True):
            assert isinstance(matrix, LowRank)
            found[f"{layer}.to_{which}"] = (matrix.up, matrix.down)
    return found, max(len(down) for _, down in found.values())


def closest(deltas: dict[str, Tensor], rank: int | None, error: float) -> tuple[Factors, int, float]:
    """Return the closest factors of a rank, or of the smallest one whose error is small enough; the rank, the error."""
    found = {name: torch.linalg.svd(delta, full_matrices=False) for name, delta in deltas.items()}
    spectra = [s for _, s, _ in found.values()]
    chosen = rank if rank is not None else smallest_rank(spectra, error)
    factors = {name: ((u * s)[:, :chosen], vh[:chosen]) for name, (u, s, vh) in found.items()}
    return factors, chosen, relative_error(spectra, chosen)


def relative_error(spectra: list[Tensor], rank: int) -> float:
    """Return the Frobenius error of cutting every matrix at ``rank``, relative to all of them together."""
    lost = sum(float(s[rank:].double().square().sum()) for s in spectra)
    total = sum(float(s.double().square().sum()) for s in spectra)
    return (lost / total) ** 0.5 if total else 0.0


def smallest_rank(spectra: list[Tensor], error: float) -> int:
    """Return the smallest rank whose :func:`relative_error` is at most ``error``."""
    full = max(len(s) for s in spectra)
    return next((rank for rank in range(1, full) if relative_error(spectra, rank) <= error), full)


def named(factors: Factors, rank: int, dialect: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return factors by the names of a dialect, all of one rank: tools disagree on ranks that differ between layers.

    Smaller ones are filled up with zeros.
    """
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in factors.items():
        missing = rank - len(down)
        up = F.pad(up, (0, missing)).to(dtype).contiguous()
        down = F.pad(down, (0, 0, 0, missing)).to(dtype).contiguous()
        if dialect == "peft":
            tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
            continue
        key = "lora_unet_" + name.replace(".", "_")
        alpha = torch.tensor(float(rank), dtype=dtype)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
    return tensors
