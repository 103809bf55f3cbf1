"""Attention processors: maps of chosen tokens out of chosen layers, and a start token without gradient.

diffusers' own processors can do neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from .. import kernels
from ..errors import InputError
from ..kernels import attention_with_columns, square_side, with_first_detached
from ..views import lock_of
from .matrices import Matrix, projected


class MapRecorder:
    """Collects the maps of the tracked tokens during one forward pass.

    Attributes:
        token_indices: int64 ``[B, K]``; ``None`` records nothing and costs nothing.
        columns: float ``[B, G, K, N]``, one per layer that ran, in order; the mean over G is the map.
    """

    def __init__(self) -> None:
        self.token_indices: Tensor | None = None
        self.columns: list[Tensor] = []

    def start(self, token_indices: Tensor | None) -> None:
        """Forget what was recorded and track these tokens from now on."""
        self.token_indices = token_indices
        self.columns = []

    def mean(self) -> Tensor:
        """Mean over the recorded layers as square maps ``[B, K, h, w]``; smaller ones are resized to the largest."""
        sides = [square_side([c]) for c in self.columns]
        maps = [c.mean(1).unflatten(-1, (s, s)) for c, s in zip(self.columns, sides, strict=True)]
        size = (max(sides), max(sides))
        maps = [m if m.shape[-2:] == size else F.interpolate(m, size, mode="bicubic") for m in maps]
        return torch.stack(maps).mean(0)


class QueryKeyRecorder:
    """Collects queries and keys of self-attention layers, of the first row of the batch.

    Attributes:
        layers: per layer that ran, query and key ``[heads, N, D]`` and the scale of the logits.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor, float]] = []


class AttentionProcessor:
    """Attention of one layer for diffusers' ``Attention`` module.

    Args:
        recorder: where maps go; ``None`` for layers whose maps nobody needs.
        listener: where queries and keys go, likewise.
        key_value: what to use instead of the layer's own ``to_k`` and ``to_v``.
        detach_start_token: whether the first text position passes no gradient to K and V (Custom Diffusion).
        backend: attention backend of the recorded layers, see :func:`sdk.kernels.attention_with_maps`.
        attention: where nothing is recorded, see :func:`attend`.
    """

    def __init__(
        self,
        recorder: MapRecorder | None = None,
        *,
        listener: QueryKeyRecorder | None = None,
        key_value: tuple[Matrix, Matrix] | None = None,
        detach_start_token: bool = False,
        backend: str | None = None,
        attention: str = "sdpa",
    ) -> None:
        self.recorder = recorder
        self.listener = listener
        self.key_value = key_value
        self.detach_start_token = detach_start_token
        self.backend = backend
        self.attention = attention

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Run the layer on ``hidden_states`` ``[B, N, C]``; no attention mask is supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        if self.key_value is None:
            key, value = attn.to_k(context), attn.to_v(context)
        else:
            own = (attn.to_k, attn.to_v)
            key, value = (projected(module, context, m) for module, m in zip(own, self.key_value, strict=True))
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if self.listener is not None:
            self.listener.layers.append((query[0].detach(), key[0].detach(), attn.scale))
        detach = self.detach_start_token and encoder_hidden_states is not None
        if self.recorder is not None and self.recorder.token_indices is not None:
            out, columns = attention_with_columns(
                query,
                key,
                value,
                self.recorder.token_indices,
                scale=attn.scale,
                detach_first=detach,
                backend=self.backend,
            )
            self.recorder.columns.append(columns)
        else:
            if detach:
                key, value = with_first_detached(key, value)
            out = attend(query, key, value, attn.scale, self.attention)
        out = out.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))


class CachedKeyValueProcessor:
    """Cross-attention with K and V computed beforehand, once per prompt instead of once per step.

    Args:
        key: ``[B, T, hidden]``, one row for each row of the batch that will be attended.
        value: ``[B, T, hidden]``.

    Attributes:
        skipped: how many of the first rows are not in the batch.
    """

    skipped = 0

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer on ``hidden_states`` ``[B, N, C]``; the text states passed along are ignored."""
        key, value = (x[self.skipped :] if self.skipped else x for x in (self.key, self.value))
        own = (attn.to_q(hidden_states), key, value)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in own)
        out = attend(query, key, value, attn.scale).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))


# On a CPU stock fused attention is slow in bfloat16. Below this many logits per head it pays to store them instead.
_EXPLICIT_LIMIT = 512 * 512


def check_attention(name: str, device: torch.device) -> None:
    """Raise :class:`InputError` for an attention that is not installed or does not compute on a device.

    Args:
        name: one of :data:`sdk.settings.ATTENTIONS`.
        device: of the base model.
    """
    if name == "xformers" and find_spec("xformers") is None:
        raise InputError("attention='xformers' needs xformers; run: pip install xformers, or choose 'sdpa'")
    if name == "xformers" and device.type != "cuda":
        raise InputError(f"attention='xformers' computes on CUDA, and the model is on {device.type}; choose 'sdpa'")


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, attention: str = "sdpa") -> Tensor:
    """Plain attention of ``[B, H, N, D]`` on ``[B, H, T, D]``.

    Args:
        query: see above.
        key: likewise.
        value: likewise.
        scale: factor on the logits.
        attention: ``"xformers"``, or by whichever way is faster here.
    """
    if attention == "xformers":
        ops = import_module("xformers.ops")  # an extra; its layout is [B, N, H, D]
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        return ops.memory_efficient_attention(query, key, value, scale=scale).transpose(1, 2)
    slow = query.device.type == "cpu" and query.dtype != torch.float32
    if slow and query.shape[2] * key.shape[2] <= _EXPLICIT_LIMIT:
        return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value
    return kernels.attention(query, key, value, scale=scale)


@contextmanager
def attention_processors(unet: nn.Module, processors: Mapping[str, Any]) -> Iterator[None]:
    """Use these processors, by layer name, and put back what was there before; blocks on one UNet take turns."""
    with lock_of(unet):
        modules: dict[str, Any] = {name: unet.get_submodule(name) for name in processors}
        before = {name: module.processor for name, module in modules.items()}
        try:
            for name, module in modules.items():
                module.set_processor(processors[name])
            yield
        finally:
            for name, module in modules.items():
                module.set_processor(before[name])


def recording_processors(unet: nn.Module, recorder: MapRecorder, layers: list[str]) -> dict[str, AttentionProcessor]:
    """Return processors for every attention layer: ``layers`` record maps, all others only attend."""
    return {
        name: AttentionProcessor(recorder if name in layers else None)
        for name, module in unet.named_modules()
        if isinstance(module, Attention)
    }


def plain_processors(unet: nn.Module, attention: str = "sdpa") -> dict[str, AttentionProcessor]:
    """Return processors that make self-attention faster without changing it: on a CPU, in place of diffusers' own.

    Processors that a user chose (xformers, sliced attention) stay.

    Args:
        unet: whose layers.
        attention: see :func:`attend`; other than ``"sdpa"``, on every device.
    """
    return {
        name: AttentionProcessor(attention=attention)
        for name, module in unet.named_modules()
        if isinstance(module, Attention)
        and not name.endswith("attn2")
        and (attention != "sdpa" or module.to_q.weight.device.type == "cpu")
        and type(module.processor) is AttnProcessor2_0
    }
