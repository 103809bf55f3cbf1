"""The drawn world's scorer: a judge reads every attribute back.

Each concept's identity (colour, accent, pattern of its class) is read off the reference picture.

* score of concept j in a picture: P(its class is there) x mean of P(its colour), P(its accent), P(its pattern).
* fidelity of i: mean score of i in pictures that ask for i alone.
* leakage of j into i: in pictures that ask for i alone, the larger of P(class of j is there) and the chance that
  i's object wears what only j should wear (its colour or accent), averaged.
* text alignment: mean probability of what the prompts name: the classes and the background.
* recognised: share of pictures that ask for i alone in which the judge's identity vectors say that this is i.
* clean, once, together: as in :mod:`sdk.eval.scores`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..errors import InputError
from ..eval.drawing import Drawn
from ..eval.expectations import Expected
from ..eval.prompt_sets import Prompt
from ..eval.scores import Scores
from .counting import count_objects
from .judge import Judge, Verdict, bundled_judge
from .renderer import RESOLUTION
from .world_prompts import benchmark_prompts

log = logging.getLogger("sdk")
_SEEN = 0.5  # probability of a class above which the judge says it is there, as for drawn pictures


@dataclass(frozen=True)
class Identity:
    """What the judge sees of a concept in the reference picture.

    Attributes:
        slot: its class, like the rest an index into the judge's vocabulary.
        colour: of the body.
        accent: of ears and paws, roof, stripes.
        pattern: of the coat.
        vector: its identity vector, ``[E]``.
    """

    slot: int
    colour: int
    accent: int
    pattern: int
    vector: Tensor = field(repr=False)


def identities_in(reference: Image.Image, concepts: Sequence[Concept], judge: Judge) -> list[Identity]:
    """Read each concept's looks off a picture.

    Raises:
        InputError: classes the judge does not know, or a class used twice.
    """
    nouns = [c.noun for c in concepts]
    unknown = [n for n in nouns if n not in judge.vocabulary.classes]
    if unknown:
        raise InputError(
            f"the judge does not know {', '.join(unknown)}; it works on the bundled world's classes "
            f"({', '.join(judge.vocabulary.classes)})"
        )
    if len(set(nouns)) < len(nouns):
        raise InputError("the concepts must be of different classes: the judge tells objects apart by class")
    verdict = judge.judge([reference])
    slots = [judge.vocabulary.classes.index(n) for n in nouns]
    for noun, slot in zip(nouns, slots, strict=True):
        seen = float(verdict.presence[0, slot])
        if seen < _SEEN:
            log.warning(
                "the judge sees no %s in the reference picture (probability %.2f): what it measures says little; it "
                "knows pictures of the bundled world alone",
                noun,
                seen,
            )
    return [
        Identity(
            s,
            colour=int(verdict.colour[0, s].argmax()),
            accent=int(verdict.accent[0, s].argmax()),
            pattern=int(verdict.pattern[0, s].argmax()),
            vector=verdict.identity[0, s],
        )
        for s in slots
    ]


def describe(identity: Identity, judge: Judge) -> str:
    """Return a concept's looks in words: ``"striped blue cat with red"``."""
    words = judge.vocabulary
    pattern = words.patterns[identity.pattern]
    look = f"{words.colours[identity.colour]} {words.classes[identity.slot]} with {words.colours[identity.accent]}"
    return look if pattern == "plain" else f"{pattern} {look}"


def score(drawn: Sequence[Drawn], identities: Sequence[Identity], judge: Judge) -> Scores:
    """Score pictures; see the module's description."""
    count = len(identities)
    sums: list[list[list[Tensor]]] = [[[] for _ in range(count)] for _ in range(count)]
    recognised: list[list[Tensor]] = [[] for _ in range(count)]
    clean: list[list[Tensor]] = [[] for _ in range(count)]
    once: list[list[Tensor]] = [[] for _ in range(count)]
    together, alignment = [], []
    for item in drawn:
        verdict = judge.judge(item.images)
        alignment.append(text_alignment(verdict, item, identities, judge))
        if len(item.asked) == 1:
            (i,) = item.asked
            for j in range(count):
                value = likeness(verdict, identities[i]) if i == j else leak(verdict, identities[i], identities[j])
                sums[i][j].append(value)
            recognised[i].append(recognise(verdict, identities[i], judge.same).float())
            others = [identities[j].slot for j in range(count) if j != i]
            clean[i].append((verdict.presence[:, others] < 0.5).all(-1).float())
            once[i].append((count_objects(verdict.place[:, identities[i].slot]) == 1).float())
        else:
            all_right = torch.stack([recognise(verdict, identities[i], judge.same) for i in item.asked]).all(0)
            together.append(all_right.float())
    return Scores(
        matrix=[[torch.cat(cell).mean().item() for cell in row] for row in sums],
        recognised=[torch.cat(shares).mean().item() for shares in recognised],
        clean=[torch.cat(shares).mean().item() for shares in clean],
        together=torch.cat(together).mean().item() if together else None,
        text_alignment=torch.cat(alignment).mean().item(),
        once=[torch.cat(shares).mean().item() for shares in once],
    )


class JudgeScorer:
    """Scores by the drawn world's judge, see the module's description; a :class:`sdk.eval.scorers.RegisteredScorer`."""

    def __init__(self, judge: Judge | None = None):
        self.judge = judge or bundled_judge()
        self.identities: list[Identity] = []

    @property
    def looks(self) -> list[str]:
        """What the judge read off the reference, in words."""
        return [describe(identity, self.judge) for identity in self.identities]

    def knows(self, concepts: Sequence[Concept], resolution: int) -> bool:
        """Whether the judge was taught these classes, and pictures of this side (pixels) can be drawn ones."""
        return resolution <= RESOLUTION and {c.noun for c in concepts} <= set(self.judge.vocabulary.classes)

    def prompts(self, concepts: Sequence[Concept], count: int) -> list[Prompt]:
        """Return the benchmark's prompts."""
        return benchmark_prompts([c.phrase for c in concepts], [c.noun for c in concepts], count)

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Read each concept's looks off the reference picture; the judge needs no masks."""
        self.identities = identities_in(reference, concepts, self.judge)

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return fidelity, leakage, recognition and text alignment."""
        return score(drawn, self.identities, self.judge)

    def faults(self, images: Sequence[Image.Image], wanted: Expected) -> list[list[str]]:
        """Say what each picture lacks, doubles or shows unasked, see :class:`sdk.eval.CheckingScorer`."""
        verdict = self.judge.judge(list(images))
        found: list[list[str]] = [[] for _ in images]
        for index, identity in enumerate(self.identities):
            noun = self.judge.vocabulary.classes[identity.slot]
            seen = (verdict.presence[:, identity.slot] > _SEEN).tolist()
            right = recognise(verdict, identity, self.judge.same).tolist()
            counts = count_objects(verdict.place[:, identity.slot]).tolist()
            for faults, there, same, count in zip(found, seen, right, counts, strict=True):
                if index in wanted.there and not there:
                    faults.append(f"no {noun}")
                elif index in wanted.there and not same:
                    faults.append(f"another {noun}")
                if index in wanted.once and count > 1:
                    faults.append(f"{count} of {noun}")
                if index in wanted.absent and there:
                    faults.append(f"a {noun} that was not asked for")
        return found


def likeness(verdict: Verdict, identity: Identity) -> Tensor:
    """Score of a concept in each picture, ``[B]``."""
    s = identity.slot
    looks = (
        verdict.colour[:, s, identity.colour]
        + verdict.accent[:, s, identity.accent]
        + verdict.pattern[:, s, identity.pattern]
    ) / 3
    return verdict.presence[:, s] * looks


def leak(verdict: Verdict, asked: Identity, other: Identity) -> Tensor:
    """How much of ``other`` shows where only ``asked`` should, ``[B]``."""
    s = asked.slot
    own = {asked.colour, asked.accent}
    worn = [
        part[:, s, colour]
        for part, colour in ((verdict.colour, other.colour), (verdict.accent, other.accent))
        if colour not in own
    ]
    transfer = verdict.presence[:, s] * torch.stack(worn).mean(0) if worn else torch.zeros(len(verdict.presence))
    return torch.maximum(verdict.presence[:, other.slot], transfer)


def recognise(verdict: Verdict, identity: Identity, same: float) -> Tensor:
    """Whether a concept is there and is the one of the reference picture, bool ``[B]``.

    Args:
        verdict: on the pictures.
        identity: of the concept.
        same: the judge's threshold, :attr:`sdk.miniworld.judge.Judge.same`.
    """
    s = identity.slot
    return (verdict.presence[:, s] > 0.5) & (verdict.identity[:, s] @ identity.vector >= same)


def text_alignment(verdict: Verdict, item: Drawn, identities: Sequence[Identity], judge: Judge) -> Tensor:
    """Mean probability of what a prompt names, ``[B]``: the concepts' classes and the background."""
    parts = [verdict.presence[:, identities[i].slot] for i in item.asked]
    if item.background is not None:
        parts.append(verdict.background[:, judge.vocabulary.backgrounds.index(item.background)])
    return torch.stack(parts).mean(0)
