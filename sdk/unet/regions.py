"""Attention that keeps to regions: cells of one concept attend neither to the words nor to the cells of another.

After ConceptSplit (ICCV 2025), whose masks stay fixed once they are found, and bounded attention (Dahary et al., ECCV
2024), which bounds self-attention too. What belongs to no concept attends to everything and is attended to by all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..kernels import attention_with_columns
from .attention import AttentionProcessor, CachedKeyValueProcessor, MapRecorder

LARGEST = 32 * 32
"""Cells of a layer above which self-attention stays unbounded: what is kept apart at 32 x 32 is apart."""


class Regions:
    """Where the concepts of each row of a batch are.

    Args:
        owner: whose word each text position is, int64 ``[B, T]``; -1: nobody's.

    Attributes:
        places: bool ``[B, S, h, w]``, a cell at most one concept's; ``None``: not known yet, nothing is bounded.
    """

    def __init__(self, owner: Tensor) -> None:
        self.owner = owner
        self.places: Tensor | None = None
        self._of: dict[int, Tensor] = {}
        self._biases: dict[tuple[bool, int, torch.dtype], Tensor] = {}

    def settle(self, places: Tensor) -> None:
        """Bound attention by these places from now on."""
        self.places, self._of, self._biases = places, {}, {}

    def cross(self, cells: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to the logits of cells on words, ``[B, 1, N, T]``; ``None``: nothing."""
        return None if self.places is None else self._bias(True, cells, dtype)

    def within(self, cells: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to the logits of cells on cells, ``[B, 1, N, N]``; ``None``: nothing."""
        return None if self.places is None or cells > LARGEST else self._bias(False, cells, dtype)

    def _bias(self, cross: bool, cells: int, dtype: torch.dtype) -> Tensor:
        if (cross, cells, dtype) not in self._biases:
            own = self._whose(cells)  # [B, N]
            other = self.owner.to(own.device) if cross else own
            apart = (own[:, :, None] >= 0) & (other[:, None] >= 0) & (own[:, :, None] != other[:, None])
            bias = torch.zeros(apart.shape, dtype=dtype, device=own.device)
            self._biases[cross, cells, dtype] = bias.masked_fill(apart, torch.finfo(dtype).min / 2)[:, None]
        return self._biases[cross, cells, dtype]

    def _whose(self, cells: int) -> Tensor:
        """Whose each cell of a layer is, int64 ``[B, N]``; -1: nobody's."""
        assert self.places is not None
        if cells not in self._of:
            height, width = self.places.shape[-2:]
            shrunk = (cells / (height * width)) ** 0.5
            size = (round(height * shrunk), round(width * shrunk))
            there = F.interpolate(self.places.float(), size, mode="area" if shrunk < 1 else "nearest").flatten(2)
            largest, which = there.max(1)
            self._of[cells] = torch.where(largest > 0.5, which, -1)
        return self._of[cells]


class RegionKeyValueProcessor(CachedKeyValueProcessor):
    """Cross-attention with K and V computed beforehand, that keeps to regions and can record maps.

    Args:
        key: see :class:`sdk.unet.attention.CachedKeyValueProcessor`.
        value: likewise.
        regions: of the rows.
    """

    def __init__(self, key: Tensor, value: Tensor, regions: Regions) -> None:
        super().__init__(key, value)
        self.regions = regions

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer on ``hidden_states`` ``[B, N, C]``."""
        bias = self.regions.cross(hidden_states.shape[1], hidden_states.dtype)
        if bias is None:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        return bounded(attn, attn.to_q(hidden_states), self.key, self.value, bias).to(hidden_states.dtype)


class RecordingKeyValueProcessor(CachedKeyValueProcessor):
    """Cross-attention with K and V computed beforehand, whose maps are recorded with their gradient.

    Args:
        key: see :class:`sdk.unet.attention.CachedKeyValueProcessor`.
        value: likewise.
        recorder: where maps go.
    """

    def __init__(self, key: Tensor, value: Tensor, recorder: MapRecorder) -> None:
        super().__init__(key, value)
        self.recorder = recorder

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer on ``hidden_states`` ``[B, N, C]``."""
        own = (attn.to_q(hidden_states), self.key, self.value)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in own)
        indices = self.recorder.token_indices
        assert indices is not None
        out, columns = attention_with_columns(query, key, value, indices, scale=attn.scale)
        self.recorder.columns.append(columns)
        out = out.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))


class RegionSelfProcessor(AttentionProcessor):
    """Self-attention that keeps to regions.

    Args:
        regions: of the rows.
    """

    def __init__(self, regions: Regions) -> None:
        super().__init__()
        self.regions = regions

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer on ``hidden_states`` ``[B, N, C]``."""
        bias = self.regions.within(hidden_states.shape[1], hidden_states.dtype)
        if bias is None:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        own = (attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states))
        return bounded(attn, *own, bias).to(hidden_states.dtype)


def bounded(attn: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention ``[B, N, C]`` with something added to its logits, and the layer's projection out."""
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=attn.scale)
    return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
