"""What is finite: the one place that decides it, for torch tensors and numpy arrays alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def is_finite(values: Any) -> bool:
    """Whether a tensor, an array or a number holds neither NaN nor an infinity; integers never do."""
    if hasattr(values, "is_floating_point"):  # a torch tensor; torch itself is not needed here
        return not (values.is_floating_point() or values.is_complex()) or bool(values.isfinite().all())
    return bool(np.isfinite(values).all())


def first_not_finite(named: Iterable[tuple[str, Any]]) -> str | None:
    """Return the name of the first tensor or array that holds NaN or an infinity, or ``None``."""
    return next((name for name, values in named if not is_finite(values)), None)
