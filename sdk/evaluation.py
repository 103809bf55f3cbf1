"""Did the concepts come apart? Measured on the bundled world, where a judge reads every attribute back.

Each concept's identity (colour, accent, pattern of its class) is read off the pack's own reference picture.
Then pictures are drawn for each concept alone and for all together, and the judge scores them:

* score of concept j in a picture: P(its class is there) x mean of P(its colour), P(its accent), P(its pattern).
* fidelity of i: mean score of i in pictures that ask for i alone.
* leakage of j into i: in pictures that ask for i alone, the larger of P(class of j is there) and the chance that
  i's object wears what only j should wear (its colour or accent), averaged.
* text alignment: mean probability of what the prompts name: the classes and the background.
* recognised: share of pictures that ask for i alone in which the judge's identity vectors say that this is i.
* clean: share of pictures that ask for i alone in which no other concept's class is to be seen.
* single: share of pictures that ask for i alone in which its class is to be seen exactly once.
* together: share of pictures that ask for all concepts in which every one is recognised.
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
from .miniworld.counting import count_objects
from .miniworld.judge import Judge, Verdict, bundled_judge
from .miniworld.prompts import benchmark_prompts
from .miniworld.render import RESOLUTION
from .prompt_sets import Prompt

if TYPE_CHECKING:
    from .pack import ConceptPack
    from .personalizer import Personalizer


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


@dataclass(frozen=True)
class Scores:
    """Figures of one model: all in [0, 1].

    Attributes:
        matrix: ``[S][S]``; row: the concept asked for alone. On the diagonal fidelity, elsewhere leakage.
        recognised: ``[S]``, share of pictures in which the one asked for alone is recognised; ``[]`` if not measured.
        clean: ``[S]``, share of these pictures without any other concept's class; ``[]`` if not measured.
        together: share of right pictures when all are asked for (``None``: a single concept, or not measured).
        text_alignment: mean probability of what the prompts name, or CLIPScore.
        single: ``[S]``, share of pictures in which the one asked for alone comes once; ``[]`` if not measured.
        others: further matrices, by the name of the encoder.
    """

    matrix: list[list[float]]
    recognised: list[float]
    clean: list[float]
    together: float | None
    text_alignment: float
    single: list[float] = field(default_factory=list)
    others: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def fidelity(self) -> float:
        """Mean of the diagonal."""
        return sum(row[i] for i, row in enumerate(self.matrix)) / len(self.matrix)

    @property
    def once(self) -> float | None:
        """Mean of ``single``; ``None`` if not measured."""
        return sum(self.single) / len(self.single) if self.single else None

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
        width = max(len(n) for n in (*names, "text alignment")) + 2
        before, after = self.untouched, self.fitted

        def line(name: str, a: float | None, b: float | None, meaning: str = "") -> str:
            return f"{name:{width}}  {a:>10.2f}  {b:>10.2f}  {meaning}".rstrip()

        lines = [f"{'':{width}}  {'untouched':>10}  {'fitted':>10}"]
        for i, name in enumerate(names):
            lines.append(line(name, before.matrix[i][i], after.matrix[i][i], "fidelity"))
            lines.append(line("", before.recognised[i], after.recognised[i], "recognised when asked for alone"))
            lines.append(line("", before.single[i], after.single[i], "there once, not twice"))
            for j, other in enumerate(names):
                if i != j:
                    lines.append(line("", before.matrix[i][j], after.matrix[i][j], f"leakage of {other} into it"))
        if after.together is not None:
            lines.append(line("all together", before.together, after.together, "share of right pictures"))
        lines.append(line("text alignment", before.text_alignment, after.text_alignment))
        return "\n".join(lines)


def evaluate(
    personalizer: Personalizer,
    pack: ConceptPack,
    *,
    prompts: int = 4,
    num_images: int = 4,
    num_inference_steps: int = 25,
    seed: int = 1000,
    judge: Judge | None = None,
) -> EvaluationReport:
    """Draw with a pack and without it, and score both.

    Args:
        personalizer: the bundled base model, or another model of the same drawn world.
        pack: what to evaluate; it must carry its reference picture.
        prompts: how many of the benchmark's ten prompts for each concept alone and for all together.
        num_images: pictures per prompt.
        num_inference_steps: DDIM steps.
        seed: the pack and the untouched model get the same noise.
        judge: default the bundled one.

    Raises:
        InputError: classes the judge does not know, a class used twice, or no reference in the pack.
    """
    judge = judge or bundled_judge()
    identities = read_identities(pack, judge)
    wanted = benchmark_prompts([c.phrase for c in pack.concepts], [c.noun for c in pack.concepts], prompts)
    common: dict[str, Any] = {
        "num_images": num_images,
        "num_inference_steps": num_inference_steps,
        "seed": seed,
    }
    fitted = draw_for(personalizer, wanted, pack, **common)
    untouched = draw_for(personalizer, wanted, None, **common)
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
    prompts: Sequence[Prompt],
    pack: ConceptPack | None,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
) -> list[Drawn]:
    """Draw prompts with a pack, or the same without tokens on the untouched model."""
    texts = [prompt.plain if pack is None else prompt.learned for prompt in prompts]
    # In one call, for larger batches; every picture has noise of its own, the same whatever pack draws it.
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(texts) * num_images)]
    images = personalizer.generate(
        texts,
        num_images=num_images,
        generator=noise,
        concepts=[pack] * len(texts),
        num_inference_steps=num_inference_steps,
    ).images
    return [
        Drawn(text, prompt.asked, prompt.background, images[i * num_images : (i + 1) * num_images])
        for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]


def read_identities(pack: ConceptPack, judge: Judge) -> list[Identity]:
    """Read each concept's looks off the pack's reference picture."""
    if pack.reference is None:
        raise InputError("the pack carries no reference picture to compare with; fit it again")
    return identities_in(pack.reference, pack.concepts, judge)


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
    single: list[list[Tensor]] = [[] for _ in range(count)]
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
            single[i].append((count_objects(verdict.place[:, identities[i].slot]) == 1).float())
        else:
            all_right = torch.stack([recognise(verdict, identities[i], judge.same) for i in item.asked]).all(0)
            together.append(all_right.float())
    return Scores(
        matrix=[[torch.cat(cell).mean().item() for cell in row] for row in sums],
        recognised=[torch.cat(shares).mean().item() for shares in recognised],
        clean=[torch.cat(shares).mean().item() for shares in clean],
        together=torch.cat(together).mean().item() if together else None,
        text_alignment=torch.cat(alignment).mean().item(),
        single=[torch.cat(shares).mean().item() for shares in single],
    )


class JudgeScorer:
    """Scores by the drawn world's judge, see the module's description; satisfies :class:`sdk.scorers.Scorer`."""

    def __init__(self, judge: Judge | None = None):
        self.judge = judge or bundled_judge()
        self.identities: list[Identity] = []

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
