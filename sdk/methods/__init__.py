"""Methods by name. Each has one file that reads like its paper."""

from __future__ import annotations

from importlib import import_module

from ..errors import InputError

METHODS = {
    "disendiff": "DisenDiff",
    "attencraft": "AttenCraft",
    "custom_diffusion": "CustomDiffusion",
    "dreambooth": "DreamBooth",
    "textual_inversion": "TextualInversion",
    "break_a_scene": "BreakAScene",
}


def check_method(name: str) -> None:
    """Raise :class:`InputError` if there is no such method."""
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}; choose one of {', '.join(METHODS)}")


def method_class(name: str) -> type:
    """Return the class of a method, or raise :class:`InputError` if there is none of this name."""
    check_method(name)
    return getattr(import_module(f".{name}", __name__), METHODS[name])
