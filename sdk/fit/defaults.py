"""The settings that a base model recommends for a method."""

from __future__ import annotations

from typing import Any

from ..config import FitConfig
from ..methods import method_class
from ..model.base_model import BaseModel
from ..plain import merged


def recommended_config(base: BaseModel, preset: str = "best", method: str = "disendiff", **changes: Any) -> FitConfig:
    """Return a method's preset with the settings that come with a base model, and further changes.

    Args:
        base: the base model; ``defaults.json`` in its folder holds settings of all methods (``fit``), of a method and
            of a method's preset (``methods``).
        preset: see :meth:`sdk.FitConfig.preset`.
        method: name of the method.
        **changes: fields to set otherwise.

    Raises:
        InputError: an unknown preset, method or setting.
    """
    unused = method_class(method).unused
    recommended = dict(base.recommended.get("fit", {}))
    if base.distilled is not None:
        recommended |= {"prior_steps": base.distilled.steps, "prior_guidance": base.distilled.guidance_scale}
    settings = {name: value for name, value in recommended.items() if name not in unused}
    for own in (method, f"{method} {preset}"):
        settings = merged(settings, base.recommended.get("methods", {}).get(own, {}))
    return FitConfig.preset(preset, method, **merged(settings, changes))
