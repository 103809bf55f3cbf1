"""Telling one base model from another, without loading either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    def from_dict(cls, values: dict[str, Any]) -> BaseIdentity:
        prints = {k: (float(v[0]), float(v[1])) for k, v in values["fingerprint"].items()}
        return cls(values["name"], prints, int(values["context"]), int(values["resolution"]))

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
