"""Who scores pictures: the drawn world's judge, or the field's encoders for photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from .concepts import Concept
from .evaluation import Drawn, JudgeScorer, Scores
from .prompt_sets import Prompt


class Scorer(Protocol):
    """Looks at a reference picture once, then scores any number of pictures drawn for it."""

    def prompts(self, concepts: Sequence[Concept], count: int) -> list[Prompt]:
        """Return ``count`` prompts for each concept alone and for all together."""

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Remember what the concepts look like; masks show where they are, white on black."""

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return the figures of the pictures."""


def default_scorer(resolution: int, concepts: Sequence[Concept]) -> Scorer:
    """Return who can score pictures of these concepts.

    The judge if they are the drawn world's: no larger than its pictures, with classes that it knows. Else CLIP and DINO
    from the Hub or its cache.

    Args:
        resolution: of the base model's pictures, in pixels.
        concepts: what the pictures show.
    """
    judge = JudgeScorer()
    if judge.knows(concepts, resolution):
        return judge
    from .metrics import EncoderScorer

    return EncoderScorer.from_pretrained()
