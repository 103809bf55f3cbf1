"""One fit from pictures to a pack: prepare, run, then what is left on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from ..concepts import Concept, resolve_concepts
from ..config import FitConfig
from ..errors import InputError
from ..eval.scorers import Scorer, default_scorer, registered_scorers
from ..pack import ConceptPack
from ..printable import printable
from ..runtime import Cancelled, Progress
from ..sampling.engine import Engine
from .kept.artifacts import attention_of, concept_pictures, maps_of, write_artifacts
from .kept.output import is_last_of, opened, settings_before
from .loop import run
from .prepare import PreparedFit, prepare
from .reporting import Looks, Report, check_report_to, reporters
from .request import FitRequest, check_request
from .validation import Validator

log = logging.getLogger("sdk")


@torch.inference_mode(False)
@torch.enable_grad()
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
    rights: Mapping[str, str] = MappingProxyType({}),
) -> ConceptPack:
    """Fit and return the pack; see :meth:`sdk.Personalizer.fit`. Inside ``torch.no_grad()`` it learns all the same."""
    if resume and output_dir is None:
        raise InputError("resume goes on from what is in output_dir; give output_dir")
    resolved = resolve_concepts(concepts)
    check_report_to(report_to, output_dir)
    before = None if output_dir is None else settings_before(output_dir)
    asked = replace(check_request(engine, images, resolved, method, config, seed, masks, before), rights=dict(rights))
    scorer = default_scorer(engine.resolution, resolved) if config.validate_every else None
    fit = Fit(engine, asked, scorer, reporters(callback, report_to, output_dir), progress, cancel)
    _look(engine, asked)
    if output_dir is None:
        return fit.learn(fit.prepare(), None).pack(engine)
    with opened(output_dir, asked, resume) as output:
        if output.finished is not None and not is_last_of(output.work, asked):
            if asked.rights and output.finished.provenance | asked.rights != output.finished.provenance:
                log.warning("the pack is finished; its licence and consent stay those that were stated then")
            return output.finished  # not even sheets are missing
        prepared = fit.prepare()
        output.check_room(*_room(prepared))
        output.begin()
        fit.learn(prepared, output.work)
        pack = output.finished or prepared.pack(engine)
        if output.finished is None:
            output.put(pack)
        try:
            write_artifacts(engine, prepared, pack, output.folder, progress, cancel)
        except Cancelled:
            raise
        except Exception as error:  # whatever it is, the pack is there
            log.warning("the pack is whole; not all of its sheets could be made (%s)", printable(error))
        output.clear()
    return pack


@dataclass(frozen=True)
class Fit:
    """One fit, and who wants to hear of it."""

    engine: Engine
    asked: FitRequest
    scorer: Scorer | None
    report: Report
    progress: Progress | None
    cancel: threading.Event | None

    def prepare(self) -> PreparedFit:
        """Make everything that is needed before the first step."""
        return prepare(self.engine, self.asked, self.progress, self.cancel)

    def learn(self, fit: PreparedFit, work: Path | None) -> PreparedFit:
        """Do the steps; what is learned is in the method of the fit that is given and returned."""
        engine, config = self.engine, self.asked.config
        scorer = self.scorer
        with _recomputing(fit.method.unet, config.gradient_checkpointing):
            run(
                fit.method,
                fit.rows,
                config,
                device=engine.device,
                work=work,
                asked=self.asked,
                report=self.report,
                looks=Looks(lambda: fit.pack(engine), lambda: attention_of(fit), lambda: maps_of(fit)),
                validate=None if scorer is None else self._validator(fit, scorer),
                progress=self.progress,
                cancel=self.cancel,
            )
        return fit

    def _validator(self, fit: PreparedFit, scorer: Scorer) -> Validator:
        image = self.asked.images[0]
        scorer.look_at(
            image, self.asked.concepts, concept_pictures(self.asked.concepts, fit.method.masks[0], image.size)
        )
        return Validator(self.engine, scorer, lambda: fit.pack(self.engine), self.progress, self.cancel)


def _look(engine: Engine, asked: FitRequest) -> None:
    """Let who knows pictures of such classes say it if these are none: the model may know them as little."""
    with suppress(Exception):  # it may be anybody's, and a fit goes on without it
        scorer = next((s for s in registered_scorers() if s.knows(asked.concepts, engine.resolution)), None)
        if scorer is not None:
            scorer.look_at(asked.images[0], asked.concepts)


def _room(fit: PreparedFit) -> tuple[int, int]:
    """Bytes that a fit will write: of unfinished work (a checkpoint, its successor, the pack), and of the pack."""
    trained = sum(weight.numel() for weight in fit.method.parameters().values())
    pack = 2 * trained + 4 * fit.request.images[0].width ** 2 + (1 << 16)
    return 4 * trained * 2 * (3 + bool(fit.request.config.validate_every)) + pack + (1 << 20), pack


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
