"""Where the backends compute in tests."""

from __future__ import annotations

import torch


def device_of(backend: str | None) -> str:
    """Return ``"cuda"`` for Triton where it compiles; elsewhere its interpreter computes on the CPU."""
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
