"""Telling one base model from another, without loading either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..disk.checked import Fail, Table
from ..errors import BaseModelError
from ..families import FAMILIES

_MOST_LAYERS, _MOST_PARTS, _MOST_WEIGHTS = 1000, 10, 10_000
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
        norms: of every larger weight, by part (``"unet"``, ``"text_encoder"``, ``"vae"``), in the parts' order; none in
            files of earlier versions.
        family: of the model, see :data:`sdk.families.FAMILIES`; empty in files of earlier versions.
        widths: of each text encoder's embeddings, if there are several; a token's embedding is one behind the other.
    """

    name: str
    fingerprint: dict[str, tuple[float, float]]
    context: int
    resolution: int
    norms: dict[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    family: str = ""
    widths: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "context": self.context,
            "resolution": self.resolution,
            "fingerprint": {k: list(v) for k, v in self.fingerprint.items()},
            **({"norms": {part: list(v) for part, v in self.norms.items()}} if self.norms else {}),
            **({"family": self.family} if self.family else {}),
            **({"widths": list(self.widths)} if self.widths else {}),
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
        whole: dict[str, tuple[float, ...]] = {}
        if "norms" in about:
            parts = about.table("norms")
            for part in parts.names(_MOST_PARTS):
                count = len(parts.entries(part, _MOST_WEIGHTS))
                whole[part] = parts.numbers(part, count, 0, _LARGEST_NORM)
        context, resolution = (about.whole(name, 1, _LARGEST) for name in ("context", "resolution"))
        family = about.choice("family", tuple(FAMILIES)) if "family" in about else ""
        widths: tuple[int, ...] = ()
        if "widths" in about:
            count = len(about.entries("widths", _MOST_PARTS))
            widths = tuple(int(each) for each in about.numbers("widths", count, 1, _LARGEST))
            if sum(widths) != context:
                raise fail(f"base_model.widths are {list(widths)}, which are not {context} together")
        return cls(about.text("name", _LONGEST_NAME), norms, context, resolution, whole, family, widths)

    def difference(self, other: BaseIdentity) -> str | None:
        """Return why ``other`` is another model, or ``None`` if it is the same."""
        if self.context != other.context:
            return f"its text states are {other.context} wide instead of {self.context}"
        if self.fingerprint.keys() != other.fingerprint.keys():
            return "its cross-attention layers are others"
        same = all(_alike(values, other.fingerprint[layer]) for layer, values in self.fingerprint.items())
        return None if same else "its weights are others"

    def remark(self, other: BaseIdentity) -> str | None:
        """Return what is worth telling of a base model that differs from ``other`` beside K and V, or ``None``.

        A pack can be used there, as with another autoencoder; it only draws other pictures.
        """
        parts = [
            part for part in self.norms.keys() & other.norms.keys() if not _alike(self.norms[part], other.norms[part])
        ]
        if not parts:
            return None
        return (
            f"the pack was made for the base model {other.name!r}, of which other weights than K and V are different "
            f"here ({', '.join(sorted(parts))}); pictures will differ from those there"
        )


def _alike(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether norms are those of the same weights, in whatever precision."""
    return len(first) == len(second) and all(
        abs(a - b) <= _FINGERPRINT_TOLERANCE * max(abs(a), abs(b)) for a, b in zip(first, second, strict=True)
    )
