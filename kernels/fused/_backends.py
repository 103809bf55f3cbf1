"""Which implementations exist here, and the rule that a backend asked for by name never falls back."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from . import cpp

_READY = "ready"
MAX_KEYS, MAX_TRACKED = 256, 16  # what the Triton kernels take
_LOW_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _triton_status() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
        return _READY
    return "no GPU here; TRITON_INTERPRET=1, set before Python starts, runs the kernels in Triton's slow interpreter"


_STATUS = {
    "reference": _READY,
    "augmented_v": _READY,
    "triton": _triton_status(),
    "cpp": cpp.unavailable() or _READY,
}


def available_backends() -> dict[str, str]:
    """Return every backend's name with ``"ready"`` or the reason why it cannot be used."""
    return dict(_STATUS)


def fastest_backend(tensor: Tensor, *, keys: int = 1, tracked: int = 1) -> str:
    """Return the backend to use for tensors like this one when none was asked for.

    Args:
        tensor: its device and type decide.
        keys: number of keys of the attention.
        tracked: number of tracked tokens.
    """
    if tensor.is_cuda:
        fits = tensor.dtype in _LOW_TYPES and keys <= MAX_KEYS and tracked <= MAX_TRACKED
        return "triton" if fits and _STATUS["triton"] == _READY else "augmented_v"
    if tensor.device.type == "cpu" and tensor.dtype in cpp.TYPES and _STATUS["cpp"] == _READY:
        return "cpp"
    return "reference"


def resolve_backend(backend: str | None) -> str | None:
    """Return ``backend`` if it is ready, and ``None`` for ``None``.

    Raises:
        ValueError: the name is unknown, or the backend is not ready on this machine.
    """
    if backend is None:
        return None
    status = _STATUS.get(backend)
    if status is None:
        raise ValueError(f"backend {backend!r} does not exist; choose one of {', '.join(_STATUS)}")
    if status != _READY:
        raise ValueError(f"backend {backend!r} cannot be used here: {status}; choose another or None")
    return backend
