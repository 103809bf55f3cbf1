"""Whether a picture shows what its prompt asks of a pack: who looks, and what is looked for.

Pictures of the drawn world are looked at by its judge, others by :class:`sdk.eval.photographs.PhotographChecks`. A
registered scorer that has ``faults`` can look at pictures (:class:`CheckingScorer`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

from ..concepts import Concept
from ..errors import InputError
from ..pack import ConceptPack
from ..sampling.engine import Engine
from .expectations import Expected, expected
from .photographs import PhotographChecks
from .scorers import registered_scorers


class Looking(Protocol):
    """Knows what the concepts look like."""

    def faults(self, images: Sequence[Image.Image], wanted: Expected) -> list[list[str]]:
        """Say what is wrong with each picture, in a few words a fault."""


@runtime_checkable
class CheckingScorer(Protocol):
    """A registered scorer that can also look at pictures one by one."""

    def knows(self, concepts: Sequence[Concept], resolution: int) -> bool:
        """See :class:`sdk.eval.scorers.RegisteredScorer`."""

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """See :class:`sdk.eval.Scorer`."""

    def faults(self, images: Sequence[Image.Image], wanted: Expected) -> list[list[str]]:
        """See :class:`Looking`."""


class PackChecker:
    """Looks at pictures drawn with packs; a :class:`sdk.sampling.Checker`.

    The reference picture of a pack is looked at once, when the first picture comes.

    Args:
        engine: the base model, which tells where things are in photographs, and what others of their kind look like.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)  # which may own this one
        self._looking: weakref.WeakKeyDictionary[ConceptPack, Looking] = weakref.WeakKeyDictionary()

    def faults(self, images: Sequence[Image.Image], prompt: str, pack: ConceptPack) -> list[list[str]]:
        """Say what is wrong with pictures of a prompt; nothing can be with one that names none of the pack's tokens.

        Raises:
            InputError: a pack without reference picture, or with concepts that nobody can tell apart.
            BaseModelError: photographs, and DINO is neither here nor to be had.
        """
        wanted = expected(prompt, pack.concepts)
        if not wanted.there:
            return [[] for _ in images]
        self.prepare(prompt, pack)
        return self._looking[pack].faults(images, wanted)

    def prepare(self, prompt: str, pack: ConceptPack) -> None:
        """Look at a pack's reference picture, if a prompt asks for any of it; errors as of :meth:`faults`."""
        if pack not in self._looking and expected(prompt, pack.concepts).there:
            self._looking[pack] = self._look(pack)

    def _look(self, pack: ConceptPack) -> Looking:
        engine = self._engine()
        assert engine is not None
        if pack.reference is None:
            raise InputError(
                "the pack carries no reference picture to compare with, as merged and routed ones do not: give "
                "checker, or draw with attempts=1"
            )
        nouns = [concept.noun for concept in pack.concepts]
        if len(set(nouns)) < len(nouns):
            raise InputError(
                "the pack's concepts are of one class, and nobody here can tell which is which in a picture: give "
                "checker, or draw with attempts=1"
            )
        for scorer in registered_scorers():
            if isinstance(scorer, CheckingScorer) and scorer.knows(pack.concepts, engine.resolution):
                scorer.look_at(pack.reference, pack.concepts)
                return scorer
        return PhotographChecks(engine, pack.reference, pack.concepts)
