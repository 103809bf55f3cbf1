"""One fit from pictures to a pack: prepare, run, then what is left on disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept, resolve_concepts
from ..config import FitConfig
from ..eval.scorers import Scorer, default_scorer
from ..files import new_folder
from ..pack import ConceptPack
from ..runtime import Cancelled, Progress
from ..sampling.engine import Engine
from .artifacts import concept_pictures, write_artifacts
from .checkpoint import METRICS
from .loop import run
from .output import finished_pack, partial, work_folder
from .prepare import PreparedFit, check_request, prepare
from .reporting import Report, check_report_to, reporters
from .validation import Validator


def fit_concepts(
    engine: Engine,
    images: Sequence[Image.Image],
    concepts: Sequence[str | Concept],
    *,
    method: str,
    config: FitConfig,
    seed: int,
    masks: Sequence[Image.Image] | None = None,
    output_dir: Path | None = None,
    resume: bool = False,
    callback: Report | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    report_to: str | None = None,
) -> ConceptPack:
    """Fit and return the pack; see :meth:`sdk.Personalizer.fit`."""
    resolved = resolve_concepts(concepts)
    check_report_to(report_to, output_dir)
    asked = check_request(engine, images, resolved, method, config, seed, masks)
    finished = finished_pack(output_dir, resume, asked.identity) if output_dir is not None else None
    if output_dir is not None and finished is not None and not partial(output_dir).is_dir():
        return finished
    scorer = default_scorer(engine.resolution, resolved) if config.validate_every else None
    report = reporters(callback, progress, report_to, output_dir)
    fit = prepare(engine, asked, progress, cancel)
    work = work_folder(output_dir, resume) if output_dir is not None else None
    try:
        with _recomputing(fit.method.unet, config.gradient_checkpointing):
            run(
                fit.method,
                fit.rows,
                asked.config,
                device=engine.device,
                work=work,
                identity=asked.identity,
                report=report,
                validate=None if scorer is None else _validator(engine, fit, scorer),
                cancel=cancel,
            )
    except Cancelled:
        if work is not None and not any(work.iterdir()):
            work.rmdir()
        raise
    if output_dir is None:
        return fit.pack(engine)
    assert work is not None
    pack = finished or fit.pack(engine)
    if finished is None:
        with new_folder(output_dir, scratch=work) as folder:
            if (work / METRICS).is_file():
                shutil.copy(work / METRICS, folder / METRICS)
            pack.write_files(folder)
    write_artifacts(engine, fit, pack, output_dir)
    shutil.rmtree(work)
    return pack


def _validator(engine: Engine, fit: PreparedFit, scorer: Scorer) -> Validator:
    asked = fit.request
    image = asked.images[0]
    scorer.look_at(image, asked.concepts, concept_pictures(asked.concepts, fit.method.masks[0], image.size))
    return Validator(engine, scorer, lambda: fit.pack(engine))


@contextmanager
def _recomputing(unet: Any, wanted: bool) -> Iterator[None]:
    """Let a fit's UNet recompute activations in a block, if that is wanted; it stays in evaluation mode."""
    if wanted:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if wanted:
            unet.disable_gradient_checkpointing()
