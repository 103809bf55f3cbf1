"""Did the concepts come apart? Measured on the bundled world, where a judge reads every attribute back.

Each concept's identity (colour, accent, pattern of its class) is read off the pack's own reference picture.
Then pictures are drawn for each concept alone and for all together, and the judge scores them:

* score of concept j in a picture: P(its class is there) x mean of P(its colour), P(its accent), P(its pattern).
* fidelity of i: mean score of i in pictures that ask for i alone.
* leakage of j into i: in pictures that ask for i alone, the larger of P(class of j is there) and the chance that
  i's object wears what only j should wear (its colour or accent), averaged.
* text alignment: mean probability of what the prompts name: the classes and the background.
* together: share of pictures that ask for all concepts in which each is there in its own colour and accent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from .concepts import Concept
from .errors import InputError
from .miniworld.judge import Judge, Verdict, bundled_judge
from .miniworld.scene import BACKGROUNDS

if TYPE_CHECKING:
    from .pack import ConceptPack
    from .personalizer import Personalizer


@dataclass(frozen=True)
class Identity:
    """What the judge sees of a concept in the reference picture; indices into the judge's vocabulary."""

    slot: int
    colour: int
    accent: int
    pattern: int


@dataclass(frozen=True)
class Scores:
    """Figures of one model: all in [0, 1].

    Attributes:
        matrix: ``[S][S]``; row: the concept asked for alone. On the diagonal fidelity, elsewhere leakage.
        together: share of right pictures when all are asked for (``None`` for a single concept).
        text_alignment: mean probability of what the prompts name.
    """

    matrix: list[list[float]]
    together: float | None
    text_alignment: float

    @property
    def fidelity(self) -> float:
        """Mean of the diagonal."""
        return sum(row[i] for i, row in enumerate(self.matrix)) / len(self.matrix)

    @property
    def leakage(self) -> float | None:
        """Mean off the diagonal; ``None`` for a single concept."""
        others = [value for i, row in enumerate(self.matrix) for j, value in enumerate(row) if i != j]
        return sum(others) / len(others) if others else None


@dataclass(frozen=True)
class Drawn:
    """Pictures of one prompt; ``asked`` are the concepts it names."""

    prompt: str
    asked: tuple[int, ...]
    background: str | None
    images: list[Image.Image]


@dataclass(frozen=True)
class EvaluationReport:
    """Figures and pictures of a pack and, for comparison, of the untouched base model.

    Attributes:
        concepts: tokens and classes.
        looks: what the judge read off the reference, in words.
        fitted: figures with the pack.
        untouched: figures of the base model for the same prompts without tokens.
        fitted_pictures: what was drawn with the pack.
        untouched_pictures: and without.
        reference: the reference picture.
    """

    concepts: list[Concept]
    looks: list[str]
    fitted: Scores
    untouched: Scores
    fitted_pictures: list[Drawn] = field(repr=False)
    untouched_pictures: list[Drawn] = field(repr=False)
    reference: Image.Image = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "concepts": [
                {"token": c.token, "class": c.noun, "looks": look}
                for c, look in zip(self.concepts, self.looks, strict=True)
            ],
            "fitted": asdict(self.fitted) | {"fidelity": self.fitted.fidelity, "leakage": self.fitted.leakage},
            "untouched": asdict(self.untouched)
            | {"fidelity": self.untouched.fidelity, "leakage": self.untouched.leakage},
        }

    def table(self) -> str:
        """Return the figures as text."""
        names = [c.phrase for c in self.concepts]
        width = max(len(n) for n in names) + 2
        lines = [f"{'':{width}}  {'untouched':>10}  {'fitted':>10}"]
        for i, name in enumerate(names):
            lines.append(
                f"{name:{width}}  {self.untouched.matrix[i][i]:>10.2f}  {self.fitted.matrix[i][i]:>10.2f}  fidelity"
            )
            for j, other in enumerate(self.concepts):
                if i != j:
                    before, after = self.untouched.matrix[i][j], self.fitted.matrix[i][j]
                    lines.append(f"{'':{width}}  {before:>10.2f}  {after:>10.2f}  leakage of {other.phrase} into it")
        if self.fitted.together is not None:
            figures = f"{self.untouched.together:>10.2f}  {self.fitted.together:>10.2f}"
            lines.append(f"{'all together':{width}}  {figures}  share of right pictures")
        lines.append(
            f"{'text alignment':{width}}  {self.untouched.text_alignment:>10.2f}  {self.fitted.text_alignment:>10.2f}"
        )
        return "\n".join(lines)


def evaluate(
    personalizer: Personalizer,
    pack: ConceptPack,
    *,
    num_images: int = 4,
    num_inference_steps: int = 25,
    seed: int = 1000,
    judge: Judge | None = None,
) -> EvaluationReport:
    """Draw with a pack and without it, and score both.

    Args:
        personalizer: the bundled base model, or another model of the same drawn world.
        pack: what to evaluate; it must carry its reference picture.
        num_images: pictures per prompt; there are four prompts a concept and four for all together.
        num_inference_steps: DDIM steps.
        seed: the pack and the untouched model get the same noise.
        judge: default the bundled one.

    Raises:
        InputError: classes the judge does not know, a class used twice, or no reference in the pack.
    """
    judge = judge or bundled_judge()
    identities = read_identities(pack, judge)
    common: dict[str, Any] = {"num_images": num_images, "num_inference_steps": num_inference_steps, "seed": seed}
    fitted = draw_for(personalizer, pack.concepts, pack, **common)
    untouched = draw_for(personalizer, pack.concepts, None, **common)
    assert pack.reference is not None
    return EvaluationReport(
        pack.concepts,
        [describe(i, judge) for i in identities],
        score(fitted, identities, judge),
        score(untouched, identities, judge),
        fitted,
        untouched,
        pack.reference,
    )


def draw_for(
    personalizer: Personalizer,
    concepts: Sequence[Concept],
    pack: ConceptPack | None,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
) -> list[Drawn]:
    """Draw the evaluation's prompts with a pack, or the same without tokens on the untouched model."""
    drawn = []
    for learned, plain, asked, background in evaluation_prompts(concepts):
        prompt = plain if pack is None else learned
        images = personalizer.generate(
            [prompt], num_images=num_images, seed=seed, concepts=[pack], num_inference_steps=num_inference_steps
        ).images
        drawn.append(Drawn(prompt, asked, background, images))
    return drawn


def read_identities(pack: ConceptPack, judge: Judge) -> list[Identity]:
    """Read each concept's looks off the pack's reference picture."""
    nouns = [c.noun for c in pack.concepts]
    unknown = [n for n in nouns if n not in judge.vocabulary.classes]
    if unknown:
        raise InputError(
            f"the judge does not know {', '.join(unknown)}; evaluate works on the bundled world's classes "
            f"({', '.join(judge.vocabulary.classes)})"
        )
    if len(set(nouns)) < len(nouns):
        raise InputError("evaluate needs concepts of different classes: the judge tells objects apart by class")
    if pack.reference is None:
        raise InputError("the pack carries no reference picture to compare with; fit it again")
    verdict = judge.judge([pack.reference])
    slots = [judge.vocabulary.classes.index(n) for n in nouns]
    return [
        Identity(s, *(int(getattr(verdict, name)[0, s].argmax()) for name in ("colour", "accent", "pattern")))
        for s in slots
    ]


def describe(identity: Identity, judge: Judge) -> str:
    """Return a concept's looks in words: ``"striped blue cat with red"``."""
    words = judge.vocabulary
    pattern = words.patterns[identity.pattern]
    look = f"{words.colours[identity.colour]} {words.classes[identity.slot]} with {words.colours[identity.accent]}"
    return look if pattern == "plain" else f"{pattern} {look}"


def evaluation_prompts(concepts: Sequence[Concept]) -> list[tuple[str, str, tuple[int, ...], str | None]]:
    """Return prompts with tokens, the same without, the concepts they name, and the background they name."""
    places: list[str | None] = [None, "beach", "snow", "night"]
    prompts = []
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(concepts))]
    if len(concepts) > 1:
        groups.append(tuple(range(len(concepts))))
    for group in groups:
        for turn, place in enumerate(places):
            order = group if turn % 2 == 0 else group[::-1]
            tail = f" {BACKGROUNDS[place]}" if place else ""
            learned = " and ".join(f"a {concepts[i].phrase}" for i in order)
            plain = " and ".join(f"a {concepts[i].noun}" for i in order)
            opening = "photo of " if place is None else ""
            prompts.append((f"{opening}{learned}{tail}", f"{opening}{plain}{tail}", group, place))
    return prompts


def score(drawn: Sequence[Drawn], identities: Sequence[Identity], judge: Judge) -> Scores:
    """Score pictures; see the module's description."""
    count = len(identities)
    sums: list[list[list[Tensor]]] = [[[] for _ in range(count)] for _ in range(count)]
    together, alignment = [], []
    for item in drawn:
        verdict = judge.judge(item.images)
        alignment.append(_named(verdict, item, identities, judge))
        if len(item.asked) == 1:
            (i,) = item.asked
            for j in range(count):
                value = likeness(verdict, identities[i]) if i == j else leak(verdict, identities[i], identities[j])
                sums[i][j].append(value)
        else:
            together.append(torch.stack([right(verdict, identities[i]) for i in item.asked]).all(0).float())
    matrix = [[torch.cat(cell).mean().item() for cell in row] for row in sums]
    return Scores(matrix, torch.cat(together).mean().item() if together else None, torch.cat(alignment).mean().item())


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


def right(verdict: Verdict, identity: Identity) -> Tensor:
    """Whether a concept is there in its own colour and accent, bool ``[B]``."""
    s = identity.slot
    return (
        (verdict.presence[:, s] > 0.5)
        & (verdict.colour[:, s].argmax(-1) == identity.colour)
        & (verdict.accent[:, s].argmax(-1) == identity.accent)
    )


def _named(verdict: Verdict, item: Drawn, identities: Sequence[Identity], judge: Judge) -> Tensor:
    parts = [verdict.presence[:, identities[i].slot] for i in item.asked]
    if item.background is not None:
        parts.append(verdict.background[:, judge.vocabulary.backgrounds.index(item.background)])
    return torch.stack(parts).mean(0)
