"""How much memory a fit needs, found out before it begins: its step is done on tensors without numbers.

On torch's meta device every tensor has a shape and no memory. What would be alive at once in a forward and a backward
pass is counted, so the answer holds for every UNet, precision and number of rows, and for devices that are not here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ...families import load_family
from ...families.layers import cross_attention_layers

_TOKENS = 77  # of a prompt; CLIP's
_STATE = 4 * 4  # bytes of a trained number: itself, its gradient and two moments of AdamW, float32
_LIBRARIES = {"cuda": 600 << 20, "cpu": 700 << 20}  # the context and kernels of CUDA; Python and the libraries


@dataclass(frozen=True)
class FitMemory:
    """What a fit holds at its peak, bytes.

    Attributes:
        frozen: the base model's weights.
        trained: what is learned, its gradient and AdamW's state.
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
        device: ``"cuda"`` or ``"cpu"``, for what the libraries take.
    """
    with torch.device("meta"):
        model: Any = UNet2DConditionModel.from_config(dict(unet))
    nn.Module.to(model, dtype).requires_grad_(whole)  # by PyTorch's own `to`, as diffusers' warns of nothing
    if checkpointing:
        model.enable_gradient_checkpointing()
    one = load_family(family)
    weights = sum(p.numel() for p in model.parameters())
    trained = weights if whole else _learned(model, (one.kv_rank or 0) if kv_rank is None else kv_rank)
    size = torch.empty(0, dtype=dtype).element_size()
    step = _peak_of_step(model, rows, one.latent_side(model.config), dtype, learns=not whole)
    half = size * trained if size < 4 else 0  # the trained numbers once more in the type of the computation
    return FitMemory(weights * size + beside, _STATE * trained + half, step, _LIBRARIES.get(device, 0))


def learned_numbers(unet: Mapping[str, Any], kv_rank: int) -> int:
    """Return how many numbers of K and V are learned of a UNet with this configuration; ``kv_rank`` 0: all."""
    with torch.device("meta"):
        return _learned(UNet2DConditionModel.from_config(dict(unet)), kv_rank)


def _learned(model: Any, kv_rank: int) -> int:
    layers = cross_attention_layers(model).values()
    shapes = [module.weight.shape for layer in layers for module in (layer.to_k, layer.to_v)]
    return sum(kv_rank * sum(shape) if kv_rank else shape.numel() for shape in shapes)


class _Live(TorchDispatchMode):
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


class _Counted:
    """An attention layer; of a cross-attention K and V train."""

    def __init__(self, learned: tuple[nn.Parameter, nn.Parameter] | None) -> None:
        self.learned = learned

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        own = (attn.to_k, attn.to_v)
        pair = (m(context) for m in own) if self.learned is None else (F.linear(context, w) for w in self.learned)
        heads = [x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (attn.to_q(hidden_states), *pair)]
        out: Any = _Fused.apply(*heads)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def _peak_of_step(model: Any, rows: int, side: int, dtype: torch.dtype, *, learns: bool) -> int:
    """Bytes alive at the peak of a forward and a backward pass, weights and what belongs to them left out."""
    config = model.config
    model.train()  # diffusers recomputes in this mode alone; there is no dropout
    layers = cross_attention_layers(model)
    learned = {
        name: tuple(nn.Parameter(torch.empty_like(m.weight)) for m in (layer.to_k, layer.to_v))
        for name, layer in layers.items()
    }
    model.set_attn_processor(
        {
            f"{name}.processor": _Counted(learned.get(name) if learns else None)  # type: ignore[arg-type]
            for name, module in model.named_modules()
            if isinstance(module, Attention)
        }
    )
    sample = torch.empty(rows, config.in_channels, side, side, dtype=dtype, device="meta")
    states = torch.empty(rows, _TOKENS, config.cross_attention_dim, dtype=dtype, device="meta", requires_grad=True)
    further: dict[str, Any] = {}
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - sizes
        further["added_cond_kwargs"] = {
            "text_embeds": torch.empty(rows, pooled, dtype=dtype, device="meta"),
            "time_ids": torch.empty(rows, 6, dtype=dtype, device="meta"),
        }
    times = torch.empty(rows, dtype=torch.int64, device="meta")
    given = [*model.parameters(), *model.buffers(), *(p for pair in learned.values() for p in pair)]
    with _Live(given) as live:
        prediction = model(sample, times, states, return_dict=False, **further)[0]
        prediction.float().square().mean().backward()
        del prediction
        gradients = [p.grad for pair in learned.values() for p in pair] + [p.grad for p in model.parameters()]
        own = sum(g.untyped_storage().nbytes() for g in gradients if g is not None)
    return max(live.peak - own, 0)
