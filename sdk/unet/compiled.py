"""UNets whose repeated blocks are compiled: each kind of a block is a program of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_KINDS = 64  # of a block: sizes, types, whose maps are recorded and by whom, gradients or none


@contextmanager
def many_kinds() -> Iterator[None]:
    """Let a compiled block have more kinds than torch thinks sensible (8) in a block, where all share one count."""
    config = torch._dynamo.config
    before = config.recompile_limit
    config.recompile_limit = max(before, _KINDS)
    try:
        yield
    finally:
        config.recompile_limit = before
