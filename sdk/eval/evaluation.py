"""Did the concepts come apart? Pictures drawn with a pack and without it, scored."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from ..concepts import Concept
from ..errors import InputError
from ..pack import ConceptPack
from ..rules.arguments import cancelling, of_type, shown, to_be_called, whole
from ..rules.drawing import MOST_PICTURES, check_seed, check_steps
from ..runtime import Phase, Progress
from ..sampling.engine import Engine
from .drawing import Drawn, draw_for
from .scorers import Scorer, looked_at
from .scores import Scores


@dataclass(frozen=True)
class EvaluationReport:
    """Figures and pictures of a pack and, for comparison, of the untouched base model.

    Attributes:
        concepts: tokens and classes.
        looks: what the scorer read off the reference, in words, one entry a concept; ``[]`` if it says nothing.
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
                for c, look in zip(self.concepts, self.looks or [""] * len(self.concepts), strict=True)
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
            if after.recognised and before.recognised:
                lines.append(line("", before.recognised[i], after.recognised[i], "recognised when asked for alone"))
            if after.once and before.once:
                lines.append(line("", before.once[i], after.once[i], "once"))
            for j, other in enumerate(names):
                if i != j:
                    lines.append(line("", before.matrix[i][j], after.matrix[i][j], f"leakage of {other} into it"))
        if after.together is not None:
            lines.append(line("all together", before.together, after.together, "share of right pictures"))
        lines.append(line("text alignment", before.text_alignment, after.text_alignment))
        return "\n".join(lines)


def evaluate(
    engine: Engine,
    pack: ConceptPack,
    *,
    prompts: int = 4,
    num_images: int = 4,
    num_inference_steps: int | None = None,
    seed: int = 1000,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> EvaluationReport:
    """Draw with a pack and without it, and score both.

    Args:
        engine: the base model, such as a :class:`sdk.Personalizer`.
        pack: what to evaluate; it must carry its reference picture.
        prompts: how many of the scorer's prompts for each concept alone and for all together.
        num_images: pictures per prompt.
        num_inference_steps: of the sampler; ``None``: 25, or a distilled model's own.
        seed: the pack and the untouched model get the same noise.
        scorer: default the first that is registered and knows the concepts: on the bundled model the judge.
        progress: called with a :class:`sdk.runtime.Event` after each drawing step, and for the scores.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.

    Raises:
        InputError: no reference in the pack, or concepts that the scorer cannot tell.
    """
    prompts, num_images = whole(prompts, "prompts", 1), whole(num_images, "num_images", 1, MOST_PICTURES)
    num_inference_steps = engine.steps_for(25) if num_inference_steps is None else check_steps(num_inference_steps)
    seed = check_seed(seed)
    to_be_called(progress, "progress")
    cancelling(cancel)
    of_type(pack, ConceptPack, "pack")
    if scorer is not None and not callable(getattr(scorer, "score", None)):
        raise InputError(f"scorer must be a Scorer (sdk.eval), got {shown(scorer)}")
    scorer = looked_at(pack, engine.resolution, scorer)
    wanted = scorer.prompts(pack.concepts, prompts)
    check_seed(seed, len(wanted) * num_images)
    common: dict[str, Any] = {"num_images": num_images, "num_inference_steps": num_inference_steps, "seed": seed}
    common |= {"progress": progress, "cancel": cancel}
    fitted = draw_for(engine, wanted, pack, **common)
    untouched = draw_for(engine, wanted, None, **common)
    assert pack.reference is not None
    phase, scores = Phase("score", 2, progress, cancel), []
    for drawn in (fitted, untouched):
        scores.append(scorer.score(drawn))
        phase.step()
    return EvaluationReport(
        pack.concepts,
        list(scorer.looks),
        scores[0],
        scores[1],
        fitted,
        untouched,
        pack.reference,
    )
