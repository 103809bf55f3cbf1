"""Scores by the judge that finds every object: also where two concepts are of one class.

Objects that are recognised are paired with the concepts asked for, each at most once, so two subjects of one class are
two objects. A concept's looks are its colour, accent and pattern.

* score of concept i in a picture that asks for it alone: share of its looks that its object has (of several of its
  class the recognised one, else the most alike), 0 without one. Its mean is fidelity.
* leakage of j into i: in these pictures, 1 where an object is recognised as j or, if they are of two classes, is of j's
  class; else the share of the looks by which j differs from i that i's object wears.
* clean: share of these pictures in which no object is of another concept's class, or recognised as another of i's.
* text alignment: mean share of what the prompts name that is there: objects of its classes, and the background.
* exchange: an object of a concept's class that is not recognised wears more of another concept's looks than of its own;
  for concepts of one class also: it mixes their looks, shows one of them again, or is one that was not asked for.
* recognised, once, together, missing, doubled, collapse: as in :mod:`sdk.eval.scores`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..errors import InputError
from ..eval.drawing import Drawn
from ..eval.expectations import Expected
from ..eval.prompt_sets import Prompt
from ..eval.scores import Scores
from .instances import CELLS, Found, InstanceJudge, Sight
from .world_prompts import benchmark_prompts

LOOKS = ("colour", "accent", "pattern")


@dataclass(frozen=True)
class Subject:
    """A concept as the judge sees it in the reference picture."""

    noun: str
    colour: str
    accent: str
    pattern: str
    identity: Tensor = field(repr=False)


class InstanceScorer:
    """Scores by a judge that finds every object, see the module's description; a :class:`sdk.eval.Scorer`.

    Args:
        judge: the judge.
    """

    def __init__(self, judge: InstanceJudge) -> None:
        self.judge = judge
        self.subjects: list[Subject] = []

    @property
    def looks(self) -> list[str]:
        """What the judge read off the reference, in words."""
        described = []
        for subject in self.subjects:
            pattern = "" if subject.pattern == "plain" else f"{subject.pattern} "
            described.append(f"{pattern}{subject.colour} {subject.noun} with {subject.accent}")
        return described

    def prompts(self, concepts: Sequence[Concept], count: int) -> list[Prompt]:
        """Return the benchmark's prompts."""
        return benchmark_prompts([c.phrase for c in concepts], [c.noun for c in concepts], count)

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Read each concept's looks off the reference picture; see :func:`subjects_in`."""
        self.subjects = subjects_in(reference, concepts, self.judge, masks)

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return the figures of the pictures."""
        counts = _Counts(self.subjects, self.judge.same)
        for picture in drawn:
            for sight in self.judge.look_at(picture.images):
                counts.add(picture, sight)
        return counts.scores()

    def faults(self, images: Sequence[Image.Image], wanted: Expected) -> list[list[str]]:
        """Say what each picture lacks, doubles or shows unasked, as :meth:`JudgeScorer.faults` does."""
        asked = [self.subjects[i] for i in wanted.there]
        found = []
        for sight in self.judge.look_at(list(images)):
            seen = Counter(item.noun for item in sight.objects)
            pairs = paired(sight.objects, asked, self.judge.same)
            faults = []
            for place, subject in enumerate(asked):
                if place not in pairs:
                    faults.append(f"another {subject.noun}" if seen[subject.noun] else f"no {subject.noun}")
            doubled = {self.subjects[i].noun for i in wanted.once if seen[self.subjects[i].noun] > 1}
            faults += [f"{seen[noun]} of {noun}" for noun in sorted(doubled)]
            unasked = {self.subjects[i].noun for i in wanted.absent if seen[self.subjects[i].noun]}
            faults += [f"a {noun} that was not asked for" for noun in sorted(unasked)]
            found.append(faults)
        return found


def subjects_in(
    reference: Image.Image,
    concepts: Sequence[Concept],
    judge: InstanceJudge,
    masks: Sequence[Image.Image] | None = None,
) -> list[Subject]:
    """Read each concept off the reference picture.

    Args:
        reference: the picture.
        concepts: what it shows.
        judge: the judge.
        masks: where each is; needed where two are of one class.

    Raises:
        InputError: a concept that the judge does not find, or two of one class without masks.
    """
    nouns = [concept.noun for concept in concepts]
    if masks is None and len(set(nouns)) < len(nouns):
        raise InputError("two concepts are of one class: give masks, so that the judge knows which is which")
    (sight,) = judge.look_at([reference])
    subjects = []
    for index, noun in enumerate(nouns):
        alike = [item for item in sight.objects if item.noun == noun]
        if not alike:
            raise InputError(f"the judge sees no {noun} in the reference picture; it knows the bundled world alone")
        if masks is not None:
            place = cells_of(masks[index])
            alike.sort(key=lambda item: -float((item.region & place).sum() / (item.region | place).sum()))
        item = alike[0]
        subjects.append(Subject(noun, item.colour, item.accent, item.pattern, item.identity))
    return subjects


def cells_of(mask: Image.Image) -> Tensor:
    """Return the judge's cells that are mostly inside a mask (white), bool ``[32, 32]``."""
    small = mask.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small) > 127)


def paired(found: Sequence[Found], subjects: Sequence[Subject], same: float) -> dict[int, int]:
    """Pair subjects with the objects that are told to be them, so that as many as possible have one.

    Args:
        found: objects of one picture.
        subjects: who may be there.
        same: the judge's threshold.

    Returns:
        Index of the object for each recognised subject.
    """
    fits = [
        [j for j, item in enumerate(found) if item.noun == s.noun and float(item.identity @ s.identity) >= same]
        for s in subjects
    ]
    taken: dict[int, int] = {}  # subject of each object

    def place(subject: int, tried: set[int]) -> bool:  # augmenting paths: whoever is in the way moves over if it can
        for item in fits[subject]:
            if item not in tried:
                tried.add(item)
                if item not in taken or place(taken[item], tried):
                    taken[item] = subject
                    return True
        return False

    for subject in range(len(subjects)):
        place(subject, set())
    return {subject: item for item, subject in taken.items()}


def likeness(item: Found, subject: Subject) -> float:
    """Return the share of a subject's looks that an object has."""
    return sum(getattr(item, name) == getattr(subject, name) for name in LOOKS) / len(LOOKS)


def worn(item: Found, own: Subject, other: Subject) -> float:
    """Return the share of the looks by which another subject differs that an object wears."""
    differ = [name for name in LOOKS if getattr(own, name) != getattr(other, name)]
    return sum(getattr(item, name) == getattr(other, name) for name in differ) / len(differ) if differ else 0.0


def wears_another(item: Found, own: Subject, others: Sequence[Subject]) -> bool:
    """Whether an object shows more of the looks that another subject has and its own has not than the reverse."""
    return any(worn(item, own, other) > worn(item, other, own) for other in others)


def mixes(item: Found, subjects: Sequence[Subject]) -> bool:
    """Whether an object shows looks that one subject alone has beside looks that another alone has."""
    shown = set()
    for name in LOOKS:
        owners = [i for i, subject in enumerate(subjects) if getattr(item, name) == getattr(subject, name)]
        if len(owners) == 1:
            shown.add(owners[0])
    return len(shown) > 1


class _Counts:
    """What was seen so far of the pictures."""

    def __init__(self, subjects: Sequence[Subject], same: float) -> None:
        self.subjects, self.same = list(subjects), same
        count = len(subjects)
        self.matrix: list[list[list[float]]] = [[[] for _ in range(count)] for _ in range(count)]
        self.recognised: list[list[float]] = [[] for _ in range(count)]
        self.clean: list[list[float]] = [[] for _ in range(count)]
        self.once: list[list[float]] = [[] for _ in range(count)]
        self.together: list[float] = []
        self.collapse: list[float] = []
        self.alignment: list[float] = []
        self.missing: list[float] = []
        self.doubled: list[float] = []
        self.exchange: list[float] = []

    def add(self, picture: Drawn, sight: Sight) -> None:
        """Count one picture."""
        asked = [self.subjects[i] for i in picture.asked]
        wanted, seen = Counter(s.noun for s in asked), Counter(item.noun for item in sight.objects)
        pairs = paired(sight.objects, asked, self.same)
        named = [min(1.0, seen[s.noun] / wanted[s.noun]) for s in asked]
        named += [float(sight.background == picture.background)] if picture.background is not None else []
        self.alignment.append(sum(named) / len(named))
        self.missing.append(any(seen[noun] < number for noun, number in wanted.items()))
        self.doubled.append(any(seen[noun] > number for noun, number in wanted.items()))
        self.exchange.append(self._exchanged(sight.objects, picture.asked, pairs))
        if len(asked) == 1:
            self._add_alone(picture.asked[0], sight.objects, pairs)
        else:
            self.together.append(len(pairs) == len(asked))
            self.collapse += [i not in pairs for i in range(len(asked))]

    def _add_alone(self, i: int, found: Sequence[Found], pairs: dict[int, int]) -> None:
        own = self.subjects[i]
        alike = [item for item in found if item.noun == own.noun]
        shown = found[pairs[0]] if pairs else max(alike, key=lambda item: likeness(item, own), default=None)
        self.matrix[i][i].append(0.0 if shown is None else likeness(shown, own))
        intruders = 0
        for j, other in enumerate(self.subjects):
            if j != i:
                there = bool(paired(found, [other], self.same))
                there = there or (other.noun != own.noun and any(item.noun == other.noun for item in found))
                intruders += there
                share = 0.0 if shown is None else worn(shown, own, other)
                self.matrix[i][j].append(1.0 if there else share)
        self.recognised[i].append(bool(pairs))
        self.clean[i].append(not intruders)
        self.once[i].append(len(alike) == 1)

    def _exchanged(self, found: Sequence[Found], asked: Sequence[int], pairs: dict[int, int]) -> bool:
        for index, item in enumerate(found):
            owners = [self.subjects[i] for i in asked if self.subjects[i].noun == item.noun]
            if index in pairs.values() or not owners:
                continue
            others = [s for i, s in enumerate(self.subjects) if i not in asked and s.noun == item.noun]
            if paired([item], others, self.same):
                return True
            if len(owners) > 1:
                if paired([item], owners, self.same) or mixes(item, owners):
                    return True
            elif wears_another(item, owners[0], [s for s in self.subjects if s is not owners[0]]):
                return True
        return False

    def scores(self) -> Scores:
        """Return the figures."""
        return Scores(
            matrix=[[_mean(cell) for cell in row] for row in self.matrix],
            recognised=[_mean(each) for each in self.recognised],
            clean=[_mean(each) for each in self.clean],
            together=_mean(self.together) if self.together else None,
            text_alignment=_mean(self.alignment),
            once=[_mean(each) for each in self.once],
            missing=_mean(self.missing),
            doubled=_mean(self.doubled),
            exchange=_mean(self.exchange),
            collapse=_mean(self.collapse) if self.collapse else None,
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
