"""The studio: a page to learn and draw on, for people who do not program (extra ``studio``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .app import create_studio
    from .workshop import Workshop

_HOMES = {"Workshop": ".workshop", "create_studio": ".app"}
__all__ = ["Workshop", "create_studio"]
__getattr__ = public_names(__name__, _HOMES)
