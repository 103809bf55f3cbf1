"""Several methods on one picture: same seeds, prompts and budget, judged alike."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from PIL import Image

from .arms import Arm, resolve_arms
from .concepts import Concept, resolve_concepts
from .errors import InputError
from .evaluation import Drawn, Scores, draw_for
from .fitting import prior_pictures
from .images import load_image, square
from .prompt_sets import Prompt
from .regions import read_masks
from .scorers import Scorer, default_scorer

if TYPE_CHECKING:
    from .pack import ConceptPack
    from .personalizer import Personalizer

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
    """Results of all arms on one picture; the untouched model comes last."""

    concepts: list[Concept]
    reference: Image.Image
    results: list[Result]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, without pictures, for JSON."""
        return {
            "concepts": [asdict(c) for c in self.concepts],
            "results": [
                {"name": r.name, "seconds": r.seconds, "memory_mb": r.memory_mb, **asdict(r.scores)}
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
            cells += ["" if v is None else f"{v:.2f}" for v in (scores.leakage, scores.once, scores.together)]
            cells += [f"{scores.text_alignment:.2f}", f"{r.seconds:.0f}", f"{r.memory_mb:.0f}"]
            lines.append(f"| {r.name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def compare(
    personalizer: Personalizer,
    image: str | Path | Image.Image,
    concepts: Sequence[str | Concept],
    *,
    methods: Sequence[str] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    masks: Sequence[str | Path | Image.Image] | None = None,
    prompts: int = 4,
    num_images: int = 2,
    num_inference_steps: int = 25,
    scorer: Scorer | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Comparison:
    """Fit one picture with several methods and score what they draw.

    Args:
        personalizer: the base model.
        image: the reference picture.
        concepts: class nouns, or :class:`Concept` objects.
        methods: arms by name, see :func:`sdk.arms.resolve_arm`; default every method and DisenDiff's best preset.
        settings: the same for every arm, such as ``{"steps": 300}``, on top of what each arm's preset and the base
            model say.
        seed: of every fit.
        masks: where each concept is, for the methods that use masks.
        prompts: of each kind, at most ten.
        num_images: per prompt; every arm gets the same noise.
        num_inference_steps: DDIM steps.
        scorer: default the drawn world's judge or CLIP, see :func:`default_scorer`.
        progress: called with the name of each arm before it is fitted.

    Raises:
        InputError: an unknown method, or a picture that cannot be scored.
    """
    if min(prompts, num_images, num_inference_steps) < 1:
        raise InputError("prompts, num_images and num_inference_steps must each be at least 1")
    arms = resolve_arms(None if methods is None else list(methods))
    resolved = resolve_concepts(concepts)
    picture = load_image(image)
    reference = square(picture, personalizer.base.resolution)
    scorer = scorer or default_scorer(personalizer.base.resolution, resolved)
    given = None if masks is None else [load_image(mask) for mask in masks]
    if given is not None:
        read_masks(given, [picture], len(resolved), personalizer.base.resolution)  # mistakes show before a fit
    squares = None if given is None else [square(mask, personalizer.base.resolution) for mask in given]
    scorer.look_at(reference, resolved, squares)
    wanted = scorer.prompts(resolved, prompts)
    common: dict[str, Any] = {
        "num_images": num_images,
        "num_inference_steps": num_inference_steps,
        "seed": seed + 1000,
    }
    results = []
    for arm in arms:
        if progress is not None:
            progress(arm.name)
        results.append(run_arm(personalizer, arm, reference, resolved, scorer, wanted, common, settings, seed, squares))
    drawn = draw_for(personalizer, wanted, None, **common)
    results.append(Result(UNTOUCHED, scorer.score(drawn), drawn))
    return Comparison(resolved, reference, results)


def run_arm(
    personalizer: Personalizer,
    arm: Arm,
    reference: Image.Image,
    concepts: list[Concept],
    scorer: Scorer,
    prompts: Sequence[Prompt],
    common: dict[str, Any],
    settings: dict[str, Any] | None,
    seed: int,
    masks: Sequence[Image.Image] | None = None,
) -> Result:
    """Fit one arm, draw and score; see :func:`compare`."""
    config = personalizer.default_config(arm.preset, arm.method, **(arm.changes | (settings or {})))
    prior_pictures(personalizer, concepts, config)  # drawn once and kept; not in the time of whoever comes first
    begin = time.monotonic()
    with peak_memory(personalizer.device) as peak:
        pack = personalizer.fit(reference, concepts, method=arm.method, config=config, seed=seed, masks=masks)
    seconds = time.monotonic() - begin
    drawn = draw_for(personalizer, prompts, pack, **common)
    return Result(arm.name, scorer.score(drawn), drawn, seconds, peak[0] / 1e6, pack)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Measure by how many bytes the memory in use rises in a block; the figure is there when the block ends."""
    found = [0.0]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    _return_freed_memory()
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.05):
            found[0] = max(found[0], process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _return_freed_memory() -> None:
    """Let glibc give freed memory back to the system: used again, it would not be seen to rise."""
    with suppress(OSError, AttributeError, TypeError):  # other systems' C libraries
        ctypes.CDLL(None).malloc_trim(0)
