"""Rows of the reference pictures and of priors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .batch import Batch

_HOMES = {"Batch": ".batch"}
__all__ = ["Batch"]
__getattr__ = public_names(__name__, _HOMES)
