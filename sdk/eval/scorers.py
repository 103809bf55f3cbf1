"""Who scores pictures: whoever knows what they show, or the field's encoders for photographs.

Scorers register themselves as entry points of the group ``personalizer.scorers``, so this room need not know them: the
drawn world brings its judge, another package may bring its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol

from PIL import Image

from ..concepts import Concept
from ..errors import InputError
from ..pack import ConceptPack
from .drawing import Drawn
from .encoders import EncoderScorer
from .prompt_sets import Prompt
from .scores import Scores

log = logging.getLogger("sdk")
GROUP = "personalizer.scorers"


class Scorer(Protocol):
    """Looks at a reference picture once, then scores any number of pictures drawn for it."""

    looks: Sequence[str]
    """What it saw of each concept, in words; empty if it has no words for it."""

    def prompts(self, concepts: Sequence[Concept], count: int) -> list[Prompt]:
        """Return ``count`` prompts for each concept alone and for all together."""

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Remember what the concepts look like; masks show where they are, white on black."""

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return the figures of the pictures."""


class RegisteredScorer(Scorer, Protocol):
    """A scorer of certain classes, made without arguments."""

    def knows(self, concepts: Sequence[Concept], resolution: int) -> bool:
        """Whether it can score pictures of these concepts and this side in pixels."""


@cache
def _registered() -> list[type[RegisteredScorer]]:
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found.append(point.load())
        except (ImportError, AttributeError) as error:  # another package's scorer, gone or of another version
            package = point.dist.name if point.dist is not None else point.module
            log.warning("the scorer %s cannot be loaded (%s); update or uninstall %s", point.name, error, package)
    return found


def registered_scorers() -> list[RegisteredScorer]:
    """Return a new scorer of each kind that is registered."""
    return [kind() for kind in _registered()]


def looked_at(pack: ConceptPack, resolution: int, scorer: Scorer | None = None) -> Scorer:
    """Return a scorer that has looked at a pack's reference picture.

    Args:
        pack: carries the reference.
        resolution: of the base model's pictures, in pixels.
        scorer: default the first registered one that knows the concepts.

    Raises:
        InputError: no reference in the pack, or concepts that no registered scorer can tell.
    """
    if pack.reference is None:
        raise InputError("the pack carries no reference picture to compare with; fit it again")
    if scorer is None:
        registered = registered_scorers()
        if not registered:
            raise InputError("no scorer is registered; install the package by pip, which registers its own")
        # Where none knows the concepts, the first one says why.
        scorer = next((s for s in registered if s.knows(pack.concepts, resolution)), registered[0])
    scorer.look_at(pack.reference, pack.concepts)
    return scorer


def default_scorer(resolution: int, concepts: Sequence[Concept]) -> Scorer:
    """Return who can score pictures of these concepts.

    The first registered scorer that knows them, else CLIP and DINO from the Hub or its cache.

    Args:
        resolution: of the base model's pictures, in pixels.
        concepts: what the pictures show.
    """
    for scorer in registered_scorers():
        if scorer.knows(concepts, resolution):
            return scorer
    return EncoderScorer.from_pretrained()
