"""Methods by name. Each is one file that reads like its paper: its class, its own settings, its presets."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..disk.checked import shown
from ..errors import InputError

__all__ = ["METHODS", "PRESETS", "check_family", "check_method", "method_class"]

# What a method's file and class are called; imported when it is asked for, because that loads torch.
METHODS = {
    "disendiff": "DisenDiff",
    "attencraft": "AttenCraft",
    "custom_diffusion": "CustomDiffusion",
    "dreambooth": "DreamBooth",
    "textual_inversion": "TextualInversion",
    "break_a_scene": "BreakAScene",
}
PRESETS = ("best", "reference", "paper", "code")


def check_method(name: str) -> None:
    """Raise :class:`InputError` if there is no such method."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"there is no method {shown(name)}; choose one of {', '.join(METHODS)}")


def check_family(name: str, family: Any) -> None:
    """Raise :class:`InputError` if a method makes no sense on base models of a family."""
    if method_class(name).whole_unet and not family.whole_unet:
        raise InputError(
            f"{name} trains the whole UNet, which of {family.title} takes over 40 GB of memory; "
            "choose a method that trains K and V, such as disendiff"
        )


def method_class(name: str) -> Any:
    """Return the class of a method, or raise :class:`InputError` if there is none of this name."""
    check_method(name)
    return getattr(import_module(f".{name}", __name__), METHODS[name])
