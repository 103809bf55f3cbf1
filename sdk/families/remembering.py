"""States inside a text encoder, without transformers' own way to ask for them.

That leaves hooks in the modules, which views share with the base model: each view would add its own, and from the
second on the states would be counted wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Remembering(nn.Module):
    """A layer that keeps its answer."""

    def __init__(self, layer: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.layer, self._kept = layer, kept

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        answer = self.layer(*arguments, **keywords)
        self._kept.append(answer[0] if isinstance(answer, tuple) else answer)
        return answer


@contextmanager
def states_before(encoder: Any, count: int) -> Iterator[list[Tensor]]:
    """Let an encoder, a view, keep what goes into its last ``count`` layers; in a block, whose list has it then."""
    layers = inner(encoder).encoder.layers
    place = str(len(layers) - 1 - count)
    layer = layers._modules[place]
    kept: list[Tensor] = []
    layers._modules[place] = _Remembering(layer, kept)
    try:
        yield kept
    finally:
        layers._modules[place] = layer


def inner(encoder: Any) -> Any:
    """Return the module that has the layers; transformers 4 has one more around it."""
    return getattr(encoder, "text_model", encoder)
