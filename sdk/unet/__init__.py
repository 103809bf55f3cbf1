"""What calls set in a view of a UNet: attention processors, learned weights, what is painted over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .attention import attention_processors, plain_processors

_HOMES = {"attention_processors": ".attention", "plain_processors": ".attention"}
__all__ = ["attention_processors", "plain_processors"]
__getattr__ = public_names(__name__, _HOMES)
