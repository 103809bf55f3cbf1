"""Several methods on one picture: same seeds, prompts and budget, judged alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept, resolve_concepts
from ..config import FitConfig
from ..errors import InputError
from ..eval.drawing import Drawn, draw_for
from ..eval.prompt_sets import Prompt
from ..eval.scorers import Scorer, default_scorer
from ..eval.scores import Scores
from ..fit.defaults import recommended_config
from ..fit.fit import fit_concepts
from ..fit.identity import library_versions
from ..fit.prepare import priors_for
from ..fit.reporting import StepReport
from ..fit.whole import whole_identity
from ..images.image_io import load_image, load_mask, square
from ..masks.user import read_masks
from ..methods import METHODS, check_family, method_class
from ..pack import ConceptPack
from ..plain import merged
from ..rules.arguments import cancelling, listed, shown, texts, to_be_called, whole
from ..rules.drawing import MOST_PICTURES, check_seed, check_steps
from ..runtime import Progress, check_cancelled, peak_memory
from ..sampling.engine import Engine
from .variants import Arm, resolve_arms

UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Result:
    """What one arm came to.

    Attributes:
        name: of the arm, or ``"untouched"`` for the plain base model.
        scores: fidelity, leakage, text alignment.
        drawn: the pictures.
        seconds: of the fit, without drawing prior pictures.
        memory_mb: by how much the fit raised the process's memory at its peak (on a GPU: the device's).
        pack: what was learned.
    """

    name: str
    scores: Scores
    drawn: list[Drawn]
    seconds: float = 0.0
    memory_mb: float = 0.0
    pack: ConceptPack | None = None


@dataclass(frozen=True)
class Comparison:
    """Results of all arms on one picture; the untouched model comes last.

    Attributes:
        concepts: what the picture shows.
        reference: the picture.
        results: of each arm.
        conditions: what it takes to repeat it: seeds, prompts, steps, base model, device, versions.
    """

    concepts: list[Concept]
    reference: Image.Image
    results: list[Result]
    conditions: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and their conditions, without pictures, for JSON."""
        return {
            "concepts": [asdict(c) for c in self.concepts],
            "conditions": self.conditions,
            "results": [
                {
                    "name": r.name,
                    "seconds": r.seconds,
                    "memory_mb": r.memory_mb,
                    "settings": {} if r.pack is None else r.pack.settings,
                    "pack": None if r.pack is None else r.pack.content_hash(),
                    **asdict(r.scores),
                }
                for r in self.results
            ],
        }

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        columns = [f"{c.phrase}" for c in self.concepts]
        lines = ["| | " + " | ".join(columns) + " | leakage | once | together | text alignment | seconds | MB |"]
        lines.append("|---" * (len(columns) + 7) + "|")
        for r in self.results:
            scores = r.scores
            cells = [f"{scores.matrix[i][i]:.2f}" for i in range(len(columns))]
            cells += ["" if v is None else f"{v:.2f}" for v in (scores.leakage, scores.mean_once, scores.together)]
            cells += [f"{scores.text_alignment:.2f}", f"{r.seconds:.0f}", f"{r.memory_mb:.0f}"]
            lines.append(f"| {r.name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def compare(
    engine: Engine,
    image: str | Path | Image.Image,
    concepts: Sequence[str | Concept],
    *,
    methods: Sequence[str] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    masks: Sequence[str | Path | Image.Image] | None = None,
    prompts: int = 4,
    num_images: int = 2,
    num_inference_steps: int | None = None,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Comparison:
    """Fit one picture with several methods and score what they draw.

    Args:
        engine: the base model, such as a :class:`sdk.Personalizer`.
        image: the reference picture.
        concepts: class nouns, or :class:`Concept` objects.
        methods: arms by name, see :func:`sdk.comparison.variants.resolve_arm`; default every method and
            DisenDiff's best preset.
        settings: the same for every arm that has them, such as ``{"steps": 300}``, on top of what each arm's preset and
            the base model say.
        seed: of every fit.
        masks: where each concept is, for the methods that use masks.
        prompts: of each kind, at most ten.
        num_images: per prompt; every arm gets the same noise.
        num_inference_steps: of the sampler; ``None``: 25, or a distilled model's own.
        scorer: default the drawn world's judge or CLIP, see :func:`default_scorer`.
        progress: called with a :class:`sdk.runtime.Event` for all that is done; its phase begins with the arm.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.

    Raises:
        InputError: an unknown method, or a picture that cannot be scored.
    """
    prompts, num_images = whole(prompts, "prompts", 1), whole(num_images, "num_images", 1, MOST_PICTURES)
    num_inference_steps = engine.steps_for(25) if num_inference_steps is None else check_steps(num_inference_steps)
    seed = check_seed(seed)
    check_seed(seed + 1000, len(METHODS) * prompts * num_images)  # of the pictures
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(f"settings are a table of names and values, got {shown(settings)}")
    to_be_called(progress, "progress")
    cancelling(cancel)
    arms = resolve_arms(None if methods is None else texts(methods, "methods", MOST_PICTURES))
    if methods is None:  # all that make sense here
        arms = [arm for arm in arms if engine.family.whole_unet or not method_class(arm.method).whole_unet]
    for arm in arms:
        check_family(arm.method, engine.family)
        arm_config(engine, arm, settings)  # mistakes show before a fit
    resolved = resolve_concepts(concepts)
    picture = load_image(image)
    reference = square(picture, engine.resolution)
    scorer = scorer or default_scorer(engine.resolution, resolved)
    given = None if masks is None else [load_mask(mask) for mask in listed(masks, "masks", "pictures")]
    if given is not None:
        read_masks(given, [picture], len(resolved), engine.resolution)  # mistakes show before a fit
    squares = None if given is None else [square(mask, engine.resolution) for mask in given]
    scorer.look_at(reference, resolved, squares)
    wanted = scorer.prompts(resolved, prompts)
    common: dict[str, Any] = {
        "num_images": num_images,
        "num_inference_steps": num_inference_steps,
        "seed": seed + 1000,
    }
    results = []
    for arm in arms:
        results.append(
            run_arm(engine, arm, reference, resolved, scorer, wanted, common, settings, seed, squares, progress, cancel)
        )
    drawn = draw_for(engine, wanted, None, **common, progress=_named(UNTOUCHED, progress), cancel=cancel)
    results.append(Result(UNTOUCHED, scorer.score(drawn), drawn))
    conditions = {"seed": seed, "drawing": common, "prompts": [prompt.learned for prompt in wanted]}
    conditions |= {"base_model": engine.base.name, **whole_identity(engine), "device": engine.device.type}
    conditions |= {"versions": library_versions(), "scorer": type(scorer).__name__, "masks_given": given is not None}
    return Comparison(resolved, reference, results, conditions)


def arm_config(engine: Engine, arm: Arm, settings: dict[str, Any] | None) -> FitConfig:
    """Return an arm's settings: its preset's, the base model's, its changes, and those of ``settings`` that it has."""
    absent = method_class(arm.method).unused | (METHODS.keys() - {arm.method})
    shared = {name: value for name, value in (settings or {}).items() if name not in absent}
    return recommended_config(engine, arm.preset, arm.method, **merged(arm.changes, shared))


def run_arm(
    engine: Engine,
    arm: Arm,
    reference: Image.Image,
    concepts: list[Concept],
    scorer: Scorer,
    prompts: Sequence[Prompt],
    common: dict[str, Any],
    settings: dict[str, Any] | None,
    seed: int,
    masks: Sequence[Image.Image] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    callback: Callable[[StepReport], Any] | None = None,
) -> Result:
    """Fit one arm, draw and score; see :func:`compare`, and :meth:`sdk.Personalizer.fit` for ``callback``."""
    config = arm_config(engine, arm, settings)
    told = _named(arm.name, progress)
    priors_for(engine, concepts, config, told, cancel)  # drawn once and kept; not in the time of whoever comes first
    begin = time.monotonic()
    with peak_memory(engine.device) as peak:
        pack = fit_concepts(
            engine,
            [reference],
            concepts,
            method=arm.method,
            config=config,
            seed=seed,
            masks=masks,
            callback=callback,
            progress=told,
            cancel=cancel,
        )
    seconds = time.monotonic() - begin
    drawn = draw_for(engine, prompts, pack, **common, progress=told, cancel=cancel)
    check_cancelled(cancel)
    return Result(arm.name, scorer.score(drawn), drawn, seconds, peak[0] / 1e6, pack)


def _named(arm: str, progress: Progress | None) -> Progress | None:
    """Tell of phases under an arm's name."""
    return None if progress is None else lambda event: progress(replace(event, phase=f"{arm}: {event.phase}"))
