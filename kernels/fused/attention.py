"""Softmax attention that also returns the probability maps of a few tokens.

``O = softmax(Q K^T * scale) V`` and, for each tracked token ``t_k``, the column ``P[:, t_k]`` averaged over the
heads (DisenDiff, CVPR 2024, section 3.2: the maps that the calibration losses act on). Implementations:

* ``reference``: plain PyTorch, the definition; float64 stays float64.
* ``cpp``: the compiled CPU library (csrc/): products, softmax and columns a block of queries at a time, in the cache;
  backward recomputes the probabilities.
* ``triton``: the same for GPUs (triton_attention.py).
* ``augmented_v``: the tracked columns come out of stock fused attention, because ``P [V | E] = [P V | P E]``
  and ``E`` can hold one-hot columns. No probability matrix is stored, and autograd delivers the gradient
  of the maps. The maps pass through the dtype of the values on their way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpp
from ._backends import fastest_backend, resolve_backend


def attention_with_maps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_indices: Tensor,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend, and return the maps of the tracked tokens.

    Args:
        query: ``[B, H, N, D]``, floating point.
        key: ``[B, H, T, D]``.
        value: ``[B, H, T, D]``.
        token_indices: int64 ``[B, K]``, positions in ``0..T-1``; ``-1`` tracks nothing and gives a map of zeros.
        scale: factor on the logits; default ``D ** -0.5``.
        backend: see :func:`available_backends`; ``None`` takes the fastest one that is ready for these tensors: on a
            CPU the compiled library, or plain PyTorch; on a GPU Triton, or ``augmented_v`` beyond Triton's limits.

    Returns:
        ``out`` ``[B, H, N, D]`` in the dtype of ``query``, and ``maps`` ``[B, K, N]``, float32 (float64 for float64
        input): the softmax probability of token k at pixel n, mean over the heads.

    Raises:
        ValueError: shapes that do not fit, an index out of range, or a backend that is not ready.
    """
    out, columns = attention_with_columns(query, key, value, token_indices, scale=scale, backend=backend)
    return out, columns[:, 0] if columns.shape[1] == 1 else columns.mean(1)


def attention_with_columns(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_indices: Tensor,
    *,
    scale: float | None = None,
    detach_first: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend as :func:`attention_with_maps` does, but leave the mean over heads to whoever uses the maps.

    Args:
        query: see :func:`attention_with_maps`, as for the rest.
        key: likewise.
        value: likewise.
        token_indices: likewise.
        scale: likewise.
        detach_first: whether the first key passes no gradient to ``key`` and ``value`` (as in Custom Diffusion).
        backend: likewise.

    Returns:
        ``out``, and ``columns`` ``[B, G, K, N]``, whose mean over G is the map. G is the number of heads where a kernel
        writes them one by one (Triton), and 1 where it has averaged them already.
    """
    _check(query, key, value, token_indices)
    chosen = resolve_backend(backend) or fastest_backend(query, keys=key.shape[2], tracked=token_indices.shape[1])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if chosen == "triton":
        from . import triton_ops  # only where it is used: importing Triton takes a second

        return triton_ops.attention_columns(query, key, value, token_indices, scale, detach_first=detach_first)
    if detach_first:
        key, value = (torch.cat([x[:, :, :1].detach(), x[:, :, 1:]], 2) for x in (key, value))
    out, maps = _IMPLEMENTATIONS[chosen](query, key, value, token_indices, scale)
    return out, maps[:, None]


def _check(query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor) -> None:
    for name, given in (("query", query), ("key", key), ("value", value), ("token_indices", token_indices)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    if (
        query.ndim != 4
        or key.shape != value.shape
        or query.shape[:2] != key.shape[:2]
        or query.shape[3] != key.shape[3]
    ):
        raise ValueError(
            "query must be [B, H, N, D] and key and value [B, H, T, D] with the same B, H and D, got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    if token_indices.ndim != 2 or token_indices.shape[0] != query.shape[0] or token_indices.dtype != torch.int64:
        raise ValueError(
            f"token_indices must be int64 [B, K] with B = {query.shape[0]}, got {token_indices.dtype} "
            f"{list(token_indices.shape)}"
        )
    if len({query.dtype, key.dtype, value.dtype}) > 1 or not query.is_floating_point():
        raise TypeError(
            f"query, key and value must have one floating-point type, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    # Where the values are at hand: on a GPU this would wait for it.
    if token_indices.device.type == "cpu" and not torch.compiler.is_compiling() and token_indices.numel():
        low, high = token_indices.aminmax()
        if low < -1 or high >= key.shape[2]:
            raise ValueError(
                f"token_indices must be -1 or a position in 0..{key.shape[2] - 1}, got {int(low)}..{int(high)}"
            )
    devices = {x.device for x in (query, key, value, token_indices)}
    if len(devices) > 1:
        raise ValueError(f"query, key, value and token_indices must be on one device, got {sorted(map(str, devices))}")


def _map_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _reference(query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    logits = query @ key.transpose(-1, -2) * scale  # [B, H, N, T]
    probabilities = logits.softmax(-1, dtype=_map_dtype(query.dtype))
    out = probabilities.to(value.dtype) @ value
    mean = probabilities.mean(1).transpose(1, 2)  # [B, T, N]
    tracked = token_indices >= 0
    index = token_indices.clamp(min=0)[:, :, None].expand(-1, -1, query.shape[2])
    maps = mean.gather(1, index) * tracked[:, :, None]
    return out.to(query.dtype), maps


def _augmented_v(
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
    maps = extended[..., width : width + count].to(_map_dtype(value.dtype)).mean(1)  # [B, N, K]
    return out, maps.transpose(1, 2)


_IMPLEMENTATIONS = {"reference": _reference, "augmented_v": _augmented_v, "cpp": cpp.attention}
