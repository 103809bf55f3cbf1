"""Weights of a module swapped in for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..views import lock_of


@contextmanager
def replaced_weights(module: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Use these parameters, by name, instead of a module's own, and put its own back; blocks on one module take turns.

    Of a layer that a LoRA wraps, the layer inside is meant.
    """
    with lock_of(module):
        owners = [module.get_submodule(name.rpartition(".")[0]) for name in weights]
        owners = [getattr(owner, "base_layer", owner) for owner in owners]
        places = [(owner, name.rpartition(".")[2]) for owner, name in zip(owners, weights, strict=True)]
        before = [owner._parameters[leaf] for owner, leaf in places]
        try:
            # Not by setattr: while another thread loads a LoRA, PEFT turns whatever is set into an empty tensor.
            for (owner, leaf), weight in zip(places, weights.values(), strict=True):
                owner._parameters[leaf] = weight
            yield
        finally:
            for (owner, leaf), own in zip(places, before, strict=True):
                owner._parameters[leaf] = own
