"""A small sheet drawn now and then during a fit, and the best weights kept.

The score is mean fidelity minus mean leakage of each concept asked for alone (see :mod:`sdk.eval.scores`). A fit stops
when it has not risen for some time, and ends with the weights that scored best.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from ..eval.drawing import draw_for
from ..eval.scorers import Scorer
from ..pack import ConceptPack
from ..runtime import Progress
from ..sampling.engine import Engine

_PROMPTS, _IMAGES, _STEPS = 2, 2, 15  # of the sheet: per concept, per prompt, per picture
_SEED = 5000


class Validator:
    """Draws and scores the sheet.

    Args:
        engine: the base model.
        scorer: has looked at the reference.
        pack: returns what is learned so far.
        progress: told about the drawing, phase ``"validate"``.
        cancel: looked at in each step of it.
    """

    def __init__(
        self,
        engine: Engine,
        scorer: Scorer,
        pack: Callable[[], ConceptPack],
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ):
        self.engine, self.scorer, self.pack = engine, scorer, pack
        self.progress = None if progress is None else lambda event: progress(replace(event, phase="validate"))
        self.cancel = cancel

    def __call__(self) -> dict[str, float]:
        """Return ``fidelity``, ``leakage`` and ``score``."""
        pack = self.pack()
        drawn = draw_for(
            self.engine,
            self.scorer.prompts(pack.concepts, _PROMPTS),
            pack,
            num_images=_IMAGES,
            num_inference_steps=self.engine.steps_for(_STEPS),
            seed=_SEED,
            progress=self.progress,
            cancel=self.cancel,
        )
        scores = self.scorer.score(drawn)
        leakage = scores.leakage or 0.0
        return {"fidelity": scores.fidelity, "leakage": leakage, "score": scores.fidelity - leakage}
