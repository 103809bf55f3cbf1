"""What the calibration loss computes: its options, defined once. No torch here.

Everything else is derived from the fields of :class:`CalibrationOptions`: the keywords of
:func:`sdk.kernels.calibration_loss`, the schemas of the operators, the C structure of the compiled library (whose order
in csrc/include/personalizer_kernels.h a test compares). A new option is a field here, and its meaning in the reference
and in each kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

MAX_SUPPRESS = 16  # x^(2^16) is 0, 1 or infinite in any type, and each squaring is work


def _field(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of the calibration loss, DisenDiff (CVPR 2024), section 3.3.

    The sources named in the fields' help: "paper" is DisenDiff, "code" its released repository.

    Raises:
        TypeError: a value that is no number, or no whole number or no ``bool`` where that is wanted.
        ValueError: a value that is not finite, a negative ``sigma``, ``suppress`` or ``smooth``, or a ``suppress``
            above 16.
    """

    normalize: bool = _field(
        True,
        "min-max each map to [0, 1] first (code; not in the paper, but without it the loss saturates)",
    )
    sigma: float = _field(
        0.5**0.5, "standard deviation of the 3x3 Gaussian in map cells; 0 leaves it out (code: its '0.5' means 0.707)"
    )
    suppress: int = _field(1, "how many times class maps are squared; 0 leaves it out (paper: once)")
    smooth: float = _field(1.0, "added to both sides of the soft IoU's fraction (code; 0 in the paper's equations)")
    bind: float = _field(1.0, "weight of the bind terms, which are summed over concepts (paper, eq. 3)")
    separate: float = _field(
        1.0, "weight of the separate-and-strengthen terms, the mean over pairs; none for one concept (paper, eq. 5)"
    )

    def __post_init__(self) -> None:
        for name, (kind, plain, words) in _KINDS.items():
            value = getattr(self, name)
            # A truth value is a number to Python, but hardly to whoever gave it here.
            if not isinstance(value, kind) or (plain is not bool and isinstance(value, bool)):
                raise TypeError(f"{name} must be {words}, got {value!r}")
            if not _is_finite(value):
                raise ValueError(f"{name} must be finite, got {value}")
            if type(value) not in (bool, int, float):  # of numpy, say, which no operator's schema knows
                object.__setattr__(self, name, plain(value))
        for name in ("sigma", "suppress", "smooth"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.suppress > MAX_SUPPRESS:
            raise ValueError(f"suppress must be at most {MAX_SUPPRESS}, got {self.suppress}")

    def with_changes(self, **changes: Any) -> CalibrationOptions:
        """Return a copy with some fields changed.

        Raises:
            TypeError: a name that is no option, or a value of another type.
            ValueError: a value that makes no sense.
        """
        values = {name: getattr(self, name) for name in OPTION_NAMES}
        for name in changes:
            if name not in values:
                raise TypeError(f"the calibration loss has no option {name!r}; known options: {', '.join(values)}")
        return CalibrationOptions(**(values | changes))


_OF_ANNOTATION: dict[str, tuple[Any, type, str]] = {
    "bool": (bool, bool, "True or False"),
    "int": (Integral, int, "a whole number"),
    "float": (Real, float, "a number"),
}
_KINDS = {f.name: _OF_ANNOTATION[str(f.type)] for f in fields(CalibrationOptions)}

OPTION_NAMES: tuple[str, ...] = tuple(f.name for f in fields(CalibrationOptions))
"""Names of the options, in the order in which operators take them."""
