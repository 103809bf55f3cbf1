"""Several methods on one picture, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .report import save_comparison
    from .runs import UNTOUCHED, Comparison, Result, compare, run_arm
    from .variants import Arm, resolve_arm, resolve_arms

_HOMES = {
    "UNTOUCHED": ".runs",
    "Arm": ".variants",
    "Comparison": ".runs",
    "Result": ".runs",
    "compare": ".runs",
    "resolve_arm": ".variants",
    "resolve_arms": ".variants",
    "run_arm": ".runs",
    "save_comparison": ".report",
}
__all__ = [
    "UNTOUCHED",
    "Arm",
    "Comparison",
    "Result",
    "compare",
    "resolve_arm",
    "resolve_arms",
    "run_arm",
    "save_comparison",
]
__getattr__ = public_names(__name__, _HOMES)
