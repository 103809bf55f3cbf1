"""Which implementations exist here, and the rule that a backend asked for by name never falls back."""

from __future__ import annotations

from torch import Tensor

from . import cpp

_READY = "ready"


def available_backends() -> dict[str, str]:
    """Return every backend's name with ``"ready"`` or the reason why it cannot be used."""
    return {
        "reference": _READY,
        "augmented_v": _READY,
        "triton": "not part of this version",
        "cpp": cpp.unavailable() or _READY,
    }


def fastest_backend(tensor: Tensor) -> str:
    """Return the backend to use for tensors like this one when none was asked for."""
    if tensor.is_cuda:
        return "augmented_v"
    if tensor.device.type == "cpu" and tensor.dtype in cpp.TYPES and cpp.unavailable() is None:
        return "cpp"
    return "reference"


def resolve_backend(backend: str | None) -> str | None:
    """Return ``backend`` if it is ready, and ``None`` for ``None``.

    Raises:
        ValueError: the name is unknown, or the backend is not ready on this machine.
    """
    if backend is None:
        return None
    status = available_backends().get(backend)
    if status is None:
        raise ValueError(f"backend {backend!r} does not exist; choose one of {', '.join(available_backends())}")
    if status != _READY:
        raise ValueError(f"backend {backend!r} cannot be used here: {status}; choose another or None")
    return backend
