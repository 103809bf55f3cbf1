"""Which backends exist, which are ready, and which one a call gets. One asked for by name never falls back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from torch import Tensor

from . import forking
from .backend import Backend
from .derivatives import transformed

# Files of this folder. Where none is asked for, the last one that is ready, chosen on the device and takes the tensors
# is used; the first one takes everything.
_FILES = (
    "reference",
    "augmented_v",
    "triton",
    "cpp",
)

BACKENDS: dict[str, Backend] = {name: import_module(f".{name}", __package__).BACKEND for name in _FILES}
forking.watch()
_READY = "ready"
STATUS: dict[str, str] = {name: backend.problem or _READY for name, backend in BACKENDS.items()}


def available_backends() -> dict[str, str]:
    """Return every backend's name with ``"ready"`` or the reason why it cannot be used."""
    return dict(STATUS)


def fastest_backend(tensor: Tensor, *, keys: int = 1, tracked: int = 1) -> str:
    """Return the backend that attention takes for tensors like this one when none was asked for.

    Args:
        tensor: its device and type decide.
        keys: number of keys of the attention.
        tracked: number of tracked tokens.
    """
    return _chosen(None, tensor, lambda backend: backend.refuses_attention(tensor, keys, tracked))


def attention_backend(
    name: str | None, query: Tensor, keys: int, tracked: int, others: Sequence[Tensor] = ()
) -> Backend:
    """Return the backend called ``name``, or with ``None`` the fastest one for this attention.

    Args:
        name: of a backend.
        query: its device and type decide.
        keys: number of keys.
        tracked: number of tracked tokens.
        others: key and value.

    Raises:
        ValueError: the name is unknown, or the backend is not ready on this machine or does not take these tensors.
    """
    beyond = transformed(query, *others)

    def refuses(backend: Backend) -> str | None:
        own = beyond if backend.first_derivatives_alone else None
        return own or backend.refuses_attention(query, keys, tracked)

    return BACKENDS[_chosen(name, query, refuses)]


def loss_backend(name: str | None, columns: Sequence[Tensor], height: int, width: int) -> Backend:
    """Return the backend called ``name``, or with ``None`` the fastest one for the loss of these columns.

    Raises:
        ValueError: as :func:`attention_backend`.
    """
    beyond = transformed(*columns)

    def refuses(backend: Backend) -> str | None:
        own = beyond if backend.first_derivatives_alone else None
        return own or backend.refuses_loss(columns, height, width)

    return BACKENDS[_chosen(name, columns[0], refuses)]


def _chosen(name: str | None, tensor: Tensor, refuses: Callable[[Backend], str | None]) -> str:
    if name is None:
        for other in reversed(_FILES):
            backend = BACKENDS[other]
            if tensor.device.type in backend.chosen_on and STATUS[other] == _READY and refuses(backend) is None:
                return other
        return _FILES[0]
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} does not exist; choose one of {', '.join(BACKENDS)}")
    if STATUS[name] != _READY:
        raise ValueError(f"backend {name!r} cannot be used here: {STATUS[name]}; choose another or None")
    refused = refuses(BACKENDS[name])
    if refused is not None:
        raise ValueError(f"backend {name!r} {refused}; choose another or None")
    return name
