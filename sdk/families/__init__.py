"""Families of base models, one file each; nothing else in the package knows one by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..lazy import public_names

if TYPE_CHECKING:
    from .configurations import CONFIGURATIONS
    from .family import Family, TextPart
    from .states import TextStates

_HOMES = {
    "CONFIGURATIONS": ".configurations",
    "Family": ".family",
    "TextPart": ".family",
    "TextStates": ".states",
}
__all__ = ["CONFIGURATIONS", "FAMILIES", "Family", "TextPart", "TextStates", "family_of", "load_family"]
__getattr__ = public_names(__name__, _HOMES)

# By name: file and class. They are asked in this order which of them a pipeline is; the last one takes what is left.
FAMILIES = {
    "sdxl": (".sdxl", "StableDiffusionXL"),
    "sd2": (".stable_diffusion", "StableDiffusion2"),
    "sd1": (".stable_diffusion", "StableDiffusion1"),
}


def load_family(name: str) -> Family:
    """Return a family by its name."""
    module, cls = FAMILIES[name]
    return getattr(import_module(module, __name__), cls)()


def family_of(pipe: Any) -> Family:
    """Return the family of a loaded pipeline."""
    return next(family for family in map(load_family, FAMILIES) if family.has(pipe))
