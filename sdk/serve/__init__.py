"""A server: pictures over HTTP, requests with different packs in one batch (extra ``serve``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .app import create_app
    from .drawing.exported import ExportedPainter
    from .drawing.with_torch import TorchPainter
    from .fitting import Fitter
    from .limits import Limits

_HOMES = {
    "ExportedPainter": ".drawing.exported",
    "Fitter": ".fitting",
    "Limits": ".limits",
    "TorchPainter": ".drawing.with_torch",
    "create_app": ".app",
}
__all__ = ["ExportedPainter", "Fitter", "Limits", "TorchPainter", "create_app"]
__getattr__ = public_names(__name__, _HOMES)
