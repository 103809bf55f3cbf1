"""Attention that returns token maps, and the calibration loss on them. Installed as ``sdk.kernels``.

Names load when they are first used, so that ``import sdk.kernels.options`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        attention,
        attention_with_columns,
        attention_with_maps,
        calibrated_attention,
        calibration_loss,
        columns_loss,
        square_side,
    )
    from .impl.reference import with_first_detached
    from .impl.registry import attention_backend, available_backends, fastest_backend
    from .options import CalibrationOptions

__all__ = [
    "CalibrationOptions",
    "attention",
    "attention_backend",
    "attention_with_columns",
    "attention_with_maps",
    "available_backends",
    "calibrated_attention",
    "calibration_loss",
    "columns_loss",
    "fastest_backend",
    "square_side",
    "with_first_detached",
]

_ELSEWHERE = {
    "CalibrationOptions": ".options",
    "attention_backend": ".impl.registry",
    "available_backends": ".impl.registry",
    "fastest_backend": ".impl.registry",
    "with_first_detached": ".impl.reference",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, ".api"), __name__), name)
    globals()[name] = value  # next time without this function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
