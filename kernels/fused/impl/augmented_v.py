"""The tracked columns out of stock fused attention: ``P [V | E] = [P V | P E]``, and ``E`` can hold one-hot columns.

No probability matrix is stored, and autograd delivers the gradient of the maps. The maps pass through the type of the
values on their way. The trick is one of attention: the loss has no product to hide anything in, and is the reference's
plain PyTorch.

It is one for finite numbers as well (finite.py): stock attention gives zeros where no probability is defined and may
lose a NaN, and a zero of ``E`` times an infinite gradient is a NaN beside the tracked token. The rest is the
reference's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .backend import Backend
from .finite import where_finite
from .reference import loss, map_dtype, with_first_detached


def attention(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float, detach_first: bool
) -> tuple[Tensor, Tensor]:
    """Attend with ``scaled_dot_product_attention``; columns are ``[B, 1, K, N]``, averaged over the heads."""
    if detach_first:
        key, value = with_first_detached(key, value)
    return where_finite(_with_columns, reference.attention, query, key, value, token_indices, scale)


def _with_columns(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, width = value.shape
    positions = torch.arange(tokens, device=value.device)
    one_hot = (positions[None, :, None] == token_indices[:, None, :]).to(value.dtype)  # [B, T, K]
    count = token_indices.shape[1]
    # Fused kernels want equal widths of query, key and value in multiples of 8.
    padded = -(-(width + count) // 8) * 8
    columns = F.pad(one_hot, (0, padded - width - count))[:, None].expand(batch, heads, tokens, padded - width)
    query, key = (F.pad(x, (0, padded - width)) for x in (query, key))
    extended = F.scaled_dot_product_attention(query, key, torch.cat([value, columns], -1), scale=scale)
    out = extended[..., :width]
    maps = extended[..., width : width + count].to(map_dtype(value.dtype)).mean(1)  # [B, N, K]
    return out, maps.transpose(1, 2)[:, None]


BACKEND = Backend(attention=attention, loss=loss, chosen_on=("cuda",))
