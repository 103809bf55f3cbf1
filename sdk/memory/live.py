"""Memory counted on torch's meta device, where every tensor has a shape and no numbers.

What would be alive at once is counted as it would be computed, so the answer holds for every model, precision and size,
and for devices that are not here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Live(TorchDispatchMode):
    """Counts the bytes that are alive at once of all that is computed inside.

    Args:
        there: tensors that were there before, and do not count.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}
        for tensor in there:  # views of weights are no memory of their own
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is not None and known() is storage:
            return
        size, key = storage.nbytes(), storage._cdata
        self._known[key] = weakref.ref(storage, lambda _: self._gone(size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, size: int) -> None:
        self.now -= size


class _Fused(torch.autograd.Function):
    """Attention as fused kernels do it: of what it computes only the result is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class CountedAttention:
    """A processor of diffusers' attention layers that computes nothing.

    Args:
        learned: K and V that train in the place of the layer's own; ``None``: the layer's own.
    """

    def __init__(self, learned: tuple[nn.Parameter, nn.Parameter] | None = None) -> None:
        self.learned = learned

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        temb: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        grid = hidden_states.shape if hidden_states.ndim == 4 else None  # an autoencoder's is a picture
        if grid is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        own = (attn.to_k, attn.to_v)
        pair = (m(context) for m in own) if self.learned is None else (F.linear(context, w) for w in self.learned)
        heads = [x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (attn.to_q(hidden_states), *pair)]
        out: Any = _Fused.apply(*heads)
        found = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        return found if grid is None else found.transpose(1, 2).reshape(grid)
