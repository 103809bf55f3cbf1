"""Who scores pictures: the drawn world's judge, or the field's encoders for photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from .concepts import Concept
from .evaluation import Drawn, Identity, Scores, identities_in, score
from .miniworld.judge import Judge, bundled_judge


class Scorer(Protocol):
    """Looks at a reference picture once, then scores any number of pictures drawn for it."""

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Remember what the concepts look like; masks show where they are, white on black."""

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return the figures of the pictures."""


class JudgeScorer:
    """Scores by the drawn world's judge, see :mod:`sdk.evaluation`."""

    def __init__(self, judge: Judge | None = None):
        self.judge = judge or bundled_judge()
        self.identities: list[Identity] = []

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Read each concept's looks off the reference picture; the judge needs no masks."""
        self.identities = identities_in(reference, concepts, self.judge)

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return fidelity, leakage, recognition and text alignment."""
        return score(drawn, self.identities, self.judge)


def default_scorer(concepts: Sequence[Concept]) -> Scorer:
    """Return the judge if it knows every class, else CLIP's encoders from the Hub or its cache."""
    if {c.noun for c in concepts} <= set(bundled_judge().vocabulary.classes):
        return JudgeScorer()
    from .metrics import EncoderScorer

    return EncoderScorer.from_pretrained()
