"""Drawing: requests, batches, packs per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .attempts import Attempts, Checker
    from .engine import Engine
    from .from_picture import Start, start_from

_HOMES = {
    "Attempts": ".attempts",
    "Checker": ".attempts",
    "Engine": ".engine",
    "Start": ".from_picture",
    "start_from": ".from_picture",
}
__all__ = ["Attempts", "Checker", "Engine", "Start", "start_from"]
__getattr__ = public_names(__name__, _HOMES)
