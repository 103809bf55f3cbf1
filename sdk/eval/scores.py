"""Figures of one model: how well concepts come out, and how much they blend.

* fidelity of i: how much concept i shows in pictures that ask for i alone.
* leakage of j into i: how much of concept j shows in pictures that ask for i alone.
* text alignment: whether what the prompts name is there.
* recognised: share of pictures that ask for i alone in which i is told to be the one of the reference.
* clean: share of pictures that ask for i alone in which no other concept's class is to be seen.
* once: share of pictures that ask for i alone in which its class is to be seen exactly once.
* together: share of pictures that ask for all concepts in which every one is recognised.

And, by scorers that find every object:

* missing, doubled: share of pictures with fewer or more objects of a class that was asked for than were asked for.
* exchange: share of pictures in which a concept wears another's looks.
* collapse: share of the subjects of pictures of all that are not recognised (subject collapse rate).

How each is measured is up to the scorer, see :mod:`sdk.eval.scorers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scores:
    """Figures of one model: all in [0, 1].

    Attributes:
        matrix: ``[S][S]``; row: the concept asked for alone. On the diagonal fidelity, elsewhere leakage.
        recognised: ``[S]``, share of pictures in which the one asked for alone is recognised; ``[]`` if not measured.
        clean: ``[S]``, share of these pictures without any other concept's class; ``[]`` if not measured.
        together: share of right pictures when all are asked for (``None``: a single concept, or not measured).
        text_alignment: mean probability of what the prompts name, or CLIPScore.
        once: ``[S]``, share of pictures in which the one asked for alone comes once; ``[]`` if not measured.
        missing: of all pictures; ``None`` if not measured, as the following.
        doubled: of all pictures.
        exchange: of all pictures.
        collapse: of the subjects in pictures of all.
        others: further matrices, by the name of the encoder.
    """

    matrix: list[list[float]]
    recognised: list[float]
    clean: list[float]
    together: float | None
    text_alignment: float
    once: list[float] = field(default_factory=list)
    missing: float | None = None
    doubled: float | None = None
    exchange: float | None = None
    collapse: float | None = None
    others: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def fidelity(self) -> float:
        """Mean of the diagonal."""
        return sum(row[i] for i, row in enumerate(self.matrix)) / len(self.matrix)

    @property
    def mean_once(self) -> float | None:
        """Mean of ``once``; ``None`` if not measured."""
        return sum(self.once) / len(self.once) if self.once else None

    @property
    def leakage(self) -> float | None:
        """Mean off the diagonal; ``None`` for a single concept."""
        others = [value for i, row in enumerate(self.matrix) for j, value in enumerate(row) if i != j]
        return sum(others) / len(others) if others else None
