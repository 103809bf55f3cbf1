"""Plain PyTorch: the definition that every other backend is tested against. Any device and floating-point type; float64
stays float64.

Attention: ``O = softmax(Q K^T * scale) V`` and, for each tracked token ``t_k``, the column ``P[:, t_k]`` averaged over
the heads (DisenDiff, CVPR 2024, section 3.2: the maps that the calibration loss acts on).

The loss is that of section 3.3, as the released code computes it. From maps averaged over layers and heads: min-max to
[0, 1]; 3x3 Gaussian with reflected borders; class maps squared ("suppression"); then, with the soft IoU of products

    IoU(A, B) = (sum AB + 1) / (sum A + sum B - sum AB + 1),

    bind_i = 1 - IoU(stopgrad(C_i), M_i)        each modifier to its class word
    s&s_ij =     IoU(C_i, C_j)                  classes apart from each other

NaN and infinities are part of the definition: they are where these formulas put them, in maps, losses and gradients of
every backend. Only a tracked token of -1 and a row without concepts give zeros whatever else is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import CalibrationOptions
from .backend import Backend
from .finite import where_finite

_RANGE_EPSILON = 1e-8  # keeps the min-max of a constant map from dividing by zero


def map_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of maps for inputs of this type: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def with_first_detached(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value ``[B, H, T, D]`` whose first position passes no gradient (Custom Diffusion)."""
    first, second = (torch.cat([x[:, :, :1].detach(), x[:, :, 1:]], 2) for x in (key, value))
    return first, second


def mean_maps(columns: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return the mean over layers and heads as maps ``[B, K, height, width]``."""
    maps = torch.stack([c.mean(1) for c in columns]).mean(0) if len(columns) > 1 else columns[0].mean(1)
    return maps.unflatten(-1, (height, width))


def attention(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float, detach_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend with all probabilities in memory; columns are ``[B, 1, K, N]``, averaged over the heads."""
    if detach_first:
        key, value = with_first_detached(key, value)
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        # On tiles, torch's own product takes the head of the next row for padding: its NaN gets into both.
        return where_finite(_with_probabilities, _in_float32, query, key, value, token_indices, scale)
    return _with_probabilities(query, key, value, token_indices, scale)


def _with_probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_indices: Tensor,
    scale: float,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> tuple[Tensor, Tensor]:
    logits = product(query, key.transpose(-1, -2)) * scale  # [B, H, N, T]
    probabilities = logits.softmax(-1, dtype=map_dtype(query.dtype))
    out = product(probabilities.to(value.dtype), value)
    mean = probabilities.mean(1).transpose(1, 2)  # [B, T, N]
    tracked = (token_indices >= 0)[:, :, None]
    index = token_indices.clamp(min=0)[:, :, None].expand(-1, -1, query.shape[2])
    maps = torch.where(tracked, mean.gather(1, index), 0.0)  # a product would let a NaN into the map of -1
    return out.to(query.dtype), maps[:, None]


def _in_float32(
    query: Tensor, key: Tensor, value: Tensor, token_indices: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The same of a low type: products in float32, rounded once, which is what a product of low types is."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a.float() @ b.float()).to(a.dtype)

    return _with_probabilities(query, key, value, token_indices, scale, product)


def loss(columns: Sequence[Tensor], height: int, width: int, options: CalibrationOptions) -> Tensor:
    """Return the loss ``[B]`` of the mean over layers and heads, in the type of the columns."""
    maps = mean_maps(columns, height, width)
    # A row without concepts has maps of zeros, which would still give a constant (bind terms of 1 - IoU(0, 0)). With a
    # NaN a row is not without concepts. Masked on both ends: a gradient of zero times an infinite slope would be NaN.
    empty = maps.detach().abs().amax((1, 2, 3)) == 0
    maps = torch.where(empty[:, None, None, None], 0.0, maps)
    processed = _blur(_min_max(maps) if options.normalize else maps, options.sigma)
    modifiers, classes = processed[:, 0::2], processed[:, 1::2]  # [B, S, h, w]
    for _ in range(options.suppress):
        classes = classes * classes
    total = options.bind * (1 - soft_iou(classes.detach(), modifiers, options.smooth)).sum(1)
    concepts = classes.shape[1]
    if concepts > 1:
        first, second = torch.triu_indices(concepts, concepts, 1, device=maps.device)
        total = total + options.separate * soft_iou(classes[:, first], classes[:, second], options.smooth).mean(1)
    return torch.where(empty, 0.0, total)


def soft_iou(a: Tensor, b: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft intersection over union of maps ``[..., h, w]``, by products; returns ``[...]``."""
    intersection = (a * b).sum((-1, -2))
    return (intersection + smooth) / (a.sum((-1, -2)) + b.sum((-1, -2)) - intersection + smooth)


def _min_max(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low + _RANGE_EPSILON)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return maps
    square = sigma * sigma  # 0 for the smallest of sigmas
    edge = math.exp(-0.5 / square) if square > 0 else 0.0
    total = edge + 1.0 + edge
    # Filled where the maps are, not copied there: a GPU's recorded graph takes no copy from the CPU.
    taps = torch.stack([maps.new_full((), weight / total) for weight in (edge, 1.0, edge)])
    kernel = torch.outer(taps, taps)[None, None]
    flat = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(flat, kernel)[:, 0].unflatten(0, maps.shape[:2])


BACKEND = Backend(attention=attention, loss=loss)
