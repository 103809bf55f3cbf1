"""What is remembered of a quantisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STEPS = 4  # of progress: feeds, quantising, sensitive layers, quality


@dataclass(frozen=True)
class Int8:
    """What the manifest says of a quantised UNet.

    Attributes:
        errors: by noise level, the root mean square of the difference to float32, where noise has 1.
        drift: what these errors add up to over a whole drawing, in the same unit.
        kept: modules that are not quantised.
        judged: of a model whose pictures can be judged, shares in float32 and in int8 by measure.
    """

    errors: dict[str, float]
    drift: float
    kept: list[str]
    judged: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return asdict(self)
