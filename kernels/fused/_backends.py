"""Which implementations exist here, and the rule that a backend asked for by name never falls back."""

from __future__ import annotations

_READY = "ready"


def available_backends() -> dict[str, str]:
    """Return every backend's name with ``"ready"`` or the reason why it cannot be used."""
    absent = "not part of this version"
    return {"reference": _READY, "augmented_v": _READY, "triton": absent, "cpp": absent}


def resolve_backend(backend: str | None, default: str) -> str:
    """Return the backend to use: ``default`` for ``None``, else ``backend`` if it is ready.

    Raises:
        ValueError: the name is unknown, or the backend is not ready on this machine.
    """
    if backend is None:
        return default
    status = available_backends().get(backend)
    if status is None:
        raise ValueError(f"backend {backend!r} does not exist; choose one of {', '.join(available_backends())}")
    if status != _READY:
        raise ValueError(f"backend {backend!r} cannot be used here: {status}; choose another or None")
    return backend
