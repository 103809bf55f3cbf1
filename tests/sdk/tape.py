"""A step written down as the operations that torch computes in it, and played again in the same memory.

This is what a CUDA graph does, on any device: whatever Python computed while it was recorded is a constant, and only
what lies in memory may differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READ_BACK = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "_unique2")


class Tape(TorchDispatchMode):
    """Writes down operations, their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, tuple, dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.entries.append((func, args, kwargs, [t for t in tree_leaves(result) if isinstance(t, Tensor)]))
        return result

    def play(self) -> None:
        """Do it all again: views are there, what is written in place is written, results go where the old ones lay."""
        with torch.no_grad():
            for func, args, kwargs, results in self.entries:
                given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
                fresh = [t for t in results if t.untyped_storage().data_ptr() not in given]
                if func.is_view or (results and not fresh and not func._schema.is_mutable):
                    continue
                found = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, Tensor)]
                for old, new in zip(results, found, strict=True):
                    if old is not new and any(old is each for each in fresh):
                        old.detach().copy_(new)


def record(body):
    """As :func:`sdk.fit.step.graph.cuda_graph`, but that the body is computed while it is written down."""
    tape = Tape()
    with tape:
        losses = body()
    return losses, tape.play


class NoReadBack(TorchDispatchMode):
    """Fails on whatever makes Python wait for a number of a device other than the CPU, and counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count += 1
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(t.device.type != "cpu" for t in tensors)
        name = func.__name__.partition(".")[0]
        if on_device and name in READ_BACK:
            raise AssertionError(f"{func} reads a number back")
        if on_device and name == "index" and any(t.dtype == torch.bool for t in tensors):
            raise AssertionError(f"{func} waits for how many there are")
        result = func(*args, **kwargs)
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if on_device and any(t.device.type == "cpu" for t in results) and not name.startswith("_foreach"):
            raise AssertionError(f"{func} copies to the CPU")
        return result
