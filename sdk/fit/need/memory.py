"""How much memory a fit needs, found out before it begins; see :mod:`sdk.memory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ...families import load_family
from ...families.layers import cross_attention_layers
from ...memory.budget import LIBRARIES
from ...memory.passes import on_meta, step_peak, text_kept

# Bytes of a trained number: itself, its gradient, float32, and two moments of the optimiser.
_STATE = {"adamw": 4 + 4 + 8, "adamw8bit": 4 + 4 + 2}
# What a step takes to what its shapes say. Measured on an H100 with SD 1.5 in bfloat16: 1.52, 1.50 and 1.43 at 1, 4 and
# 8 rows, as norms compute in float32 there and the allocator rounds up (`python -m benchmarks.gpu --only memory`).
_TAKEN = {"cuda": 1.55}


@dataclass(frozen=True)
class FitMemory:
    """What a fit holds at its peak, bytes.

    Attributes:
        frozen: the base model's weights.
        trained: what is learned, its gradient and the optimiser's state.
        step: of the step itself: activations and their gradients.
        libraries: of what computes.
    """

    frozen: int
    trained: int
    step: int
    libraries: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.frozen + self.trained + self.step + self.libraries


def fit_memory(
    unet: Mapping[str, Any],
    family: str,
    *,
    dtype: torch.dtype,
    rows: int,
    checkpointing: bool,
    beside: int,
    kv_rank: int | None = None,
    whole: bool = False,
    encoders: Sequence[Any] = (),
    optimizer: str = "adamw",
    device: str = "cuda",
) -> FitMemory:
    """Return what a fit needs.

    Args:
        unet: the configuration of the UNet.
        family: its name, see :data:`sdk.families.FAMILIES`.
        dtype: of the frozen weights and the computation.
        rows: that go through the UNet at once.
        checkpointing: whether activations are computed again in the backward pass.
        beside: bytes of the other parts' weights: text encoders, autoencoder.
        kv_rank: of the learned K and V; 0: whole; ``None``: the family's.
        whole: the whole UNet trains.
        encoders: the text encoders, through which tokens learn; left out, what they keep of prompts is not counted.
        optimizer: its name.
        device: ``"cuda"`` or ``"cpu"``, for what the libraries take and what the allocator wastes.
    """
    model = on_meta(UNet2DConditionModel, unet, dtype).requires_grad_(whole)
    if checkpointing:
        model.enable_gradient_checkpointing()
    one = load_family(family)
    weights = sum(p.numel() for p in model.parameters())
    trained = weights if whole else learned_of(model, (one.kv_rank or 0) if kv_rank is None else kv_rank)
    size = torch.empty(0, dtype=dtype).element_size()
    side = one.latent_side(model.config)
    step = step_peak(model, rows, (side, side), dtype, learns=not whole) + text_kept(encoders, rows)
    step = int(_TAKEN.get(device, 1.0) * step)
    half = size * trained if size < 4 else 0  # the trained numbers once more in the type of the computation
    return FitMemory(weights * size + beside, _STATE[optimizer] * trained + half, step, LIBRARIES.get(device, 0))


def learned_numbers(unet: Mapping[str, Any], kv_rank: int) -> int:
    """Return how many numbers of K and V are learned of a UNet with this configuration; ``kv_rank`` 0: all."""
    return learned_of(on_meta(UNet2DConditionModel, unet, torch.float32), kv_rank)


def learned_of(model: Any, kv_rank: int) -> int:
    """Return the same of a UNet that is there."""
    layers = cross_attention_layers(model).values()
    shapes = [module.weight.shape for layer in layers for module in (layer.to_k, layer.to_v)]
    return sum(kv_rank * sum(shape) if kv_rank else shape.numel() for shape in shapes)
