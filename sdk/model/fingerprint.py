"""Telling one base model from another, without loading either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checked import Fail, Table
from ..errors import BaseModelError

_MOST_LAYERS = 1000
_LARGEST = 1 << 16  # of widths and of pixels a side
_LARGEST_NORM = 1e9
_LONGEST_NAME = 4096  # a path
# Norms survive a change of precision to about 1e-5; fine-tunes of one family differ by far more than this.
_FINGERPRINT_TOLERANCE = 3e-4


@dataclass(frozen=True)
class BaseIdentity:
    """What a pack remembers of its base model.

    Attributes:
        name: what the user called it: a path, a Hub id or ``"bundled"``.
        fingerprint: Euclidean norms of the K and V weights of every cross-attention, by layer.
        context: width of the text states.
        resolution: side of the model's pictures in pixels.
    """

    name: str
    fingerprint: dict[str, tuple[float, float]]
    context: int
    resolution: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "context": self.context,
            "resolution": self.resolution,
            "fingerprint": {k: list(v) for k, v in self.fingerprint.items()},
        }

    @classmethod
    def from_dict(cls, values: object, fail: Fail = BaseModelError) -> BaseIdentity:
        """Return the identity that a file states.

        Args:
            values: what :meth:`to_dict` gave, or anything else that a file holds there.
            fail: makes the error out of what is wrong with it.
        """
        about = Table(values, fail, "base_model")
        prints = about.table("fingerprint")
        norms = {}
        for layer in prints.names(_MOST_LAYERS):
            first, second = prints.numbers(layer, 2, 0, _LARGEST_NORM)
            norms[layer] = (first, second)
        context, resolution = (about.whole(name, 1, _LARGEST) for name in ("context", "resolution"))
        return cls(about.text("name", _LONGEST_NAME), norms, context, resolution)

    def difference(self, other: BaseIdentity) -> str | None:
        """Return why ``other`` is another model, or ``None`` if it is the same."""
        if self.context != other.context:
            return f"its text states are {other.context} wide instead of {self.context}"
        if self.fingerprint.keys() != other.fingerprint.keys():
            return "its cross-attention layers are others"
        for layer, values in self.fingerprint.items():
            for a, b in zip(values, other.fingerprint[layer], strict=True):
                if abs(a - b) > _FINGERPRINT_TOLERANCE * max(abs(a), abs(b)):
                    return "its weights are others"
        return None
