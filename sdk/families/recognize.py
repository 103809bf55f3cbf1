"""What kind of model a folder in diffusers' layout is, told from its ``model_index.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..disk.checked import shown
from ..errors import BaseModelError
from . import FAMILIES, load_family
from .family import Family

SUPPORTED = "supported are Stable Diffusion 1.x, 2.x and XL"
_UNET = "UNet2DConditionModel"
# Parts that tell what else a pipeline is.
_OTHER_PARTS = {"transformer": "a diffusion transformer", "prior": "a cascade", "prior_prior": "a cascade"}


def family_of_index(index: object, name: str) -> Family:
    """Return the family of a folder.

    Args:
        index: what its ``model_index.json`` holds.
        name: of the model, for messages.

    Raises:
        BaseModelError: another kind of model, in one line that says which.
    """
    values: Mapping[str, Any] = index if isinstance(index, dict) else {}
    kind = values.get("_class_name")
    if not isinstance(kind, str):
        raise BaseModelError(f"the base model {name!r} does not say what it is (model_index.json); {SUPPORTED}")
    found = next((f for f in map(load_family, FAMILIES) if kind in f.pipelines), None)
    if found is None:
        what = next((text for part, text in _OTHER_PARTS.items() if part in values), "another kind of model")
        raise BaseModelError(f"the base model {name!r} is a {shown_kind(kind)}, {what}; {SUPPORTED}")
    unet = _class(values.get("unet"))
    if unet != _UNET:
        there = shown_kind(unet or "no UNet")
        raise BaseModelError(f"the base model {name!r} has {there} instead of {_UNET}; {SUPPORTED}")
    missing = [part for _, part in found.encoders if _class(values.get(part)) is None]
    if missing:
        what = "a refiner of pictures, which draws none" if missing == ["text_encoder"] else f"without {missing[0]}"
        raise BaseModelError(f"the base model {name!r} is {what}; give the base model; {SUPPORTED}")
    return found


def shown_kind(kind: str) -> str:
    """Return the name of a class out of a file as a message may hold it."""
    return kind if kind.replace(" ", "").isidentifier() and len(kind) < 80 else shown(kind)


def _class(entry: object) -> str | None:
    """A part's class in an index: ``["diffusers", "UNet2DConditionModel"]``."""
    if isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], str):
        return entry[1]
    return None
