"""Frozen layers of a view held ready: their weights once in the type that is computed, and in the order in which.

Autocast converts the weights of every linear layer and convolution in every pass, because nothing tells it that they
never change: of Stable Diffusion 1.5 860 million numbers a step. And oneDNN, which computes on CPUs, sorts the weights
of a convolution into blocks in every call, forwards and backwards, and the picture too where its channels do not come
last. Here all of that is done once. Layers give the same bits as before; what normalises groups of channels adds them
up in another order when they come last, which changes last bits.

The layers' own parameters stay what and where they are, shared with the model that users hold; the copies belong to
the view and go with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORTH_IT = 50_000_000
"""Numbers of a module below which nothing is gained: they are converted in less time than the copies take to read."""

_FEW = 16  # output channels below which oneDNN takes another way backwards, with other last bits
_LAST = torch.channels_last


class _ReadyLinear(nn.Linear):
    """A frozen linear layer whose weights are there in the type of the computation."""

    _ready: tuple[Tensor, Tensor | None]  # a plain attribute: neither a parameter nor a buffer

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._ready
        return F.linear(input, weight, bias) if _computed(input, weight) else super().forward(input)


class _ReadyConv2d(nn.Conv2d):
    """The same of a convolution, channels last."""

    _ready: tuple[Tensor, Tensor | None]

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._ready
        if not _computed(input, weight):
            return super().forward(input)
        return self._conv_forward(input.contiguous(memory_format=_LAST), weight, bias)


class _SortedConv2d(nn.Conv2d):
    """The same with the weights as oneDNN wants them, for a CPU; forwards, and turned round for the way back."""

    _ready: tuple[Tensor, Tensor, Tensor | None]

    def forward(self, input: Tensor) -> Tensor:
        there, back, bias = self._ready
        if not _computed(input, there):
            return super().forward(input)
        dense = input.to(there.dtype).contiguous(memory_format=_LAST)
        if not (torch.is_grad_enabled() and dense.requires_grad):
            return _convolved(dense, there, bias, self.padding)
        return _Sorted.apply(dense, there, back, bias, self.padding)


class _Sorted(torch.autograd.Function):
    """A convolution of stride 1 that keeps its size: backwards it is one with the kernel turned round."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, there: Tensor, back: Tensor, bias: Tensor | None, padding: Any) -> Tensor:
        ctx.back, ctx.padding = back, padding  # neither has a gradient
        return _convolved(input, there, bias, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dense = grad.contiguous(memory_format=_LAST)
        return _convolved(dense, ctx.back, None, ctx.padding), None, None, None, None


def _convolved(input: Tensor, weight: Tensor, bias: Tensor | None, padding: Any) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(input, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], "")


def _computed(input: Tensor, weight: Tensor) -> bool:
    """Whether a layer computes in the type of its ready weights: what is not under autocast has its own type."""
    return input.dtype == weight.dtype or torch.is_autocast_enabled(input.device.type)


def hold_ready(
    module: nn.Module, dtype: torch.dtype, trained: Collection[str] = (), *, sort: bool = True, worth: int = WORTH_IT
) -> int:
    """Let the frozen layers of a view compute with weights that are converted now, for the rest of its life.

    Linear layers and convolutions are meant; what normalises computes with the weights that it has, under autocast,
    too. It counts where the computation is in ``dtype``, by autocast or because what comes in is. Weights
    that change later are not seen.

    Args:
        module: a view (:mod:`sdk.views`) that nobody else holds.
        dtype: of the computation: bfloat16 or float16.
        trained: names of parameters of layers to be left alone.
        sort: also sort the weights of convolutions as oneDNN wants them, where it computes; ``torch.compile`` cannot
            look into that.
        worth: numbers of a module below which nothing is done.

    Returns:
        Bytes of the copies.
    """
    if sum(weight.numel() for weight in module.parameters()) < worth:
        return 0
    taken = 0
    for layer in list(_frozen(module, trained)):
        kind, ready = _linear(layer, dtype) if isinstance(layer, nn.Linear) else _convolution(layer, dtype, sort)
        layer.__dict__["_ready"] = ready
        layer.__class__ = kind
        taken += sum(each.numel() * each.element_size() for each in ready if each is not None)
    return taken


def ready_bytes(module: nn.Module, dtype: torch.dtype, trained: Collection[str] = (), *, sort: bool = True) -> int:
    """Return the bytes that :func:`hold_ready` would take, at most, without taking any; arguments are its own."""
    if sum(weight.numel() for weight in module.parameters()) < WORTH_IT:
        return 0
    size = torch.empty(0, dtype=dtype).element_size()
    twice = [2 if sort and isinstance(layer, nn.Conv2d) else 1 for layer in _frozen(module, trained)]
    numbers = [layer.weight.numel() for layer in _frozen(module, trained)]
    return size * sum(times * count for times, count in zip(twice, numbers, strict=True))


def _frozen(module: nn.Module, trained: Collection[str]) -> Iterator[Any]:
    """Linear layers and convolutions, of diffusers or wrapped by a LoRA, but for those whose parameters train."""
    left = {name.rpartition(".")[0] for name in trained}
    for name, layer in module.named_modules():
        if type(layer) in (nn.Linear, nn.Conv2d) and name.removesuffix(".base_layer") not in left:
            yield layer


def _linear(layer: nn.Linear, dtype: torch.dtype) -> tuple[type[nn.Module], Any]:
    return _ReadyLinear, (_converted(layer.weight, dtype), _converted(layer.bias, dtype))


def _convolution(layer: nn.Conv2d, dtype: torch.dtype, sort: bool) -> tuple[type[nn.Module], Any]:
    """What a convolution becomes, and its weights."""
    weight, bias = layer.weight.detach().to(dtype), _converted(layer.bias, dtype)
    if not (sort and _sortable(layer, dtype)):
        return _ReadyConv2d, (weight.contiguous(memory_format=_LAST), bias)
    there, back = (
        torch.ops.mkldnn._reorder_convolution_weight(each.contiguous(), layer.padding, (1, 1), (1, 1), 1, None)
        for each in (weight, weight.flip(2, 3).transpose(0, 1))
    )
    return _SortedConv2d, (there, back, bias)


def _sortable(layer: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes a layer, and the way back is a convolution of the same kind.

    A kernel of one cell is a product of matrices, which oneDNN needs nothing sorted for; sorted it takes up to fifty
    times as long on processors with AVX512-BF16 and without AMX.
    """
    return (
        dtype == torch.bfloat16
        and layer.weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(2 * padding == size - 1 for padding, size in zip(layer.padding, layer.kernel_size, strict=True))
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and max(layer.kernel_size) > 1
        and layer.out_channels >= _FEW
    )


def _converted(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.detach().to(dtype)
