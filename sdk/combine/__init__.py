"""Packs that were fitted apart, used together: merged in closed form, or routed by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .merging import merge
    from .routing import RoutedPack, route, with_own_tokens

_HOMES = {
    "RoutedPack": ".routing",
    "merge": ".merging",
    "route": ".routing",
    "with_own_tokens": ".routing",
}
__all__ = ["RoutedPack", "merge", "route", "with_own_tokens"]
__getattr__ = public_names(__name__, _HOMES)
