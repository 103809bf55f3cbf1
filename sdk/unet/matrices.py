"""K and V of a layer as they are learned: whole, or as a change of low rank beside the base model's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """``up @ down``, added to the base model's weight (LoRA: Hu et al., 2021, section 4.1; its alpha is the rank).

    Attributes:
        down: ``[r, context]``.
        up: ``[hidden, r]``.
    """

    down: Tensor
    up: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that is changed."""
        return self.up.shape[0], self.down.shape[1]

    def change(self) -> Tensor:
        """Return what is added, float32 ``[hidden, context]``."""
        return self.up.float() @ self.down.float()


Matrix: TypeAlias = Tensor | LowRank
"""A learned weight: itself, ``[hidden, context]``, or a change of the base model's."""


def projected(module: Any, states: Tensor, matrix: Matrix) -> Tensor:
    """Return text states ``[..., context]`` projected by a learned weight instead of a layer's own."""
    if isinstance(matrix, LowRank):
        return module(states) + F.linear(F.linear(states, matrix.down), matrix.up)
    return F.linear(states, matrix)


def whole(matrix: Matrix, own: Tensor) -> Tensor:
    """Return a learned weight, ``[hidden, context]``, given the base model's own, in the type of that."""
    if isinstance(matrix, LowRank):
        return own + matrix.change().to(own)
    return matrix.to(own)


def change(matrix: Matrix, own: Tensor) -> Tensor:
    """Return what a learned weight changes of the base model's own, float32 ``[hidden, context]`` on the CPU."""
    if isinstance(matrix, LowRank):
        return matrix.change().cpu()
    return matrix.float().cpu() - own.detach().float().cpu()


def tensors(matrix: Matrix) -> list[Tensor]:
    """Return the numbers that a learned weight is made of."""
    return [matrix.down, matrix.up] if isinstance(matrix, LowRank) else [matrix]


def named_tensors(layer: str, pair: tuple[Matrix, Matrix]) -> Iterator[tuple[str, Tensor]]:
    """Yield the numbers of K and V by name, as parameters of a UNet would be called: ``...attn2.to_k.weight``."""
    for which, matrix in zip("kv", pair, strict=True):
        if isinstance(matrix, LowRank):
            yield f"{layer}.to_{which}.down", matrix.down
            yield f"{layer}.to_{which}.up", matrix.up
        else:
            yield f"{layer}.to_{which}.weight", matrix


def converted(matrix: Matrix, **how: Any) -> Matrix:
    """Return a learned weight with its numbers in another type or place, as :meth:`torch.Tensor.to`."""
    if isinstance(matrix, LowRank):
        return LowRank(_moved(matrix.down, **how), _moved(matrix.up, **how))
    return _moved(matrix, **how)


def unchanged(matrix: Matrix, own: Tensor) -> Matrix:
    """Return the base model's own weight in the form of a learned one."""
    return LowRank(matrix.down, torch.zeros_like(matrix.up)) if isinstance(matrix, LowRank) else own


def fresh(weight: Tensor, rank: int, device: torch.device, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """Return the trainable parts of a change that is none yet: ``down`` random, ``up`` zero.

    Args:
        weight: of the base model, ``[hidden, context]``.
        rank: at most the smaller of its sides is used.
        device: of the parameters.
        generator: of the random numbers.
    """
    hidden, context = weight.shape
    rank = min(rank, hidden, context)
    bound = 1 / math.sqrt(context)
    down = torch.rand(rank, context, generator=generator, dtype=torch.float32) * (2 * bound) - bound
    up = torch.zeros(hidden, rank, dtype=torch.float32, device=device)
    return {"down": nn.Parameter(down.to(device)), "up": nn.Parameter(up)}


def _moved(tensor: Tensor, **how: Any) -> Tensor:
    return tensor.detach().to(**how).contiguous()
