"""The training loop that all methods share."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..data.rows import Rows
from ..errors import NotFiniteError
from ..finite import first_not_finite
from ..interrupts import deferred_interrupt
from ..methods.base import Method
from ..runtime import Phase, Progress, check_cancelled
from ..settings import FitSettings
from .early_stopping import Best
from .kept.checkpoint import CHECKPOINT, Checkpoints
from .kept.metrics import MetricsLog
from .optimizers import build_optimizer
from .reporting import Looks, Report, StepReport
from .request import FitRequest
from .step.accelerate import compiled_blocks, do_steps, tensor_cores
from .step.losses import PendingLosses, StepLosses
from .step.upcoming import UpcomingRows

log = logging.getLogger(__name__)
LATE = {"cuda": 1}  # steps that are begun before the losses of one are read, where steps are only asked for


def run(
    method: Method,
    rows: Rows,
    settings: FitSettings,
    *,
    device: torch.device,
    work: Path | None,
    asked: FitRequest,
    report: Report,
    looks: Looks,
    validate: Callable[[], dict[str, float]] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Train from the last checkpoint, if any, to the last step, or until validation stops it.

    Args:
        method: what is trained and how.
        rows: the batches.
        settings: steps, weight decay, checkpoint interval.
        device: where to train.
        work: folder of the checkpoint and ``metrics.jsonl``, or ``None`` to keep nothing.
        asked: what the result depends on; a checkpoint of another fit is not resumed.
        report: called after each step.
        looks: what it may look at.
        validate: returns a ``"score"`` and more of the present weights, asked every ``settings.validate_every`` steps;
            the fit ends with the weights that scored best.
        progress: told about each step, phase ``"fit"``.
        cancel: an event; once set, the checkpoint is written and the fit ends before its next step.

    Raises:
        Cancelled: ``cancel`` was set.
        KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written first.
        NotFiniteError: a loss or a weight that is not finite; the last checkpoint stays as it is.
    """
    recorded = settings.accelerate == "graph"
    optimizer = build_optimizer(settings.optimizer, method.parameter_groups(), settings.weight_decay, recorded=recorded)
    checkpoints = Checkpoints(work, asked)
    best = Best(settings.patience)
    scaler = torch.amp.GradScaler(device.type, enabled=method.denoiser.dtype == torch.float16)
    first = checkpoints.load(method, optimizer, best, scaler)
    log_file = MetricsLog(work, asked, anew=first == 0)
    done = first
    do_step = do_steps(settings, method, optimizer, scaler)
    upcoming = UpcomingRows(method, rows, device)
    unread = PendingLosses(LATE.get(device.type, 0))

    def save(step: int, pending: bool = False, ended: bool = False) -> None:
        _check_weights(method, step, work)
        checkpoints.save(step, method, optimizer, log_file.size, best, pending, ended, scaler)

    def validates(step: int) -> bool:
        return validate is not None and not (step % settings.validate_every and step != settings.steps)

    def enough(step: int) -> bool:
        """Validate, if it is time; whether there has been no better score for long enough."""
        if validate is None or not validates(step):
            return False
        try:
            found = validate()
        except Exception:  # it was cancelled, or failed: the step was done all the same
            save(step, pending=True)
            raise
        stop = best.see(found["score"], step, method.parameters())
        log.info("step %d: validation score %.3f, best %.3f at %d", step, found["score"], best.score, best.step)
        log_file.validation(step, found)
        if stop:
            log.info("stopped at step %d: no better score since step %d", step, best.step)
        return stop

    def note(each: StepLosses) -> None:
        """Write down a step whose losses are read, if they are numbers."""
        _check_losses(each.values, each.step, settings, work)
        log_file.step(each.step, each.values, each.rate, each.seconds)

    def tell(each: StepLosses) -> None:
        phase.step(1, each.values)
        report(StepReport(each.step, settings.steps, each.values, phase.seconds_left or 0.0, looks))

    with (
        deferred_interrupt() as interrupted,
        tensor_cores(device, method.denoiser.dtype),
        compiled_blocks(method, settings.accelerate == "compile"),
    ):
        phase = Phase("fit", settings.steps, progress, None, first)
        ended = done == settings.steps
        if checkpoints.pending:
            ended = enough(done) or ended
        while not ended:
            if interrupted.is_set() or (cancel is not None and cancel.is_set()):
                break
            begin = time.monotonic()
            rate = max(method.rates(done))
            sums = do_step(upcoming.take(done), done)
            done += 1
            upcoming.prepare(done)
            read = unread.put(done, sums, rate, begin)
            saves = settings.checkpoint_every and done % settings.checkpoint_every == 0
            if saves or validates(done) or done == settings.steps:
                read += unread.all()  # nothing is kept of a step that was not looked at
            for each in read:
                note(each)
            ended = enough(done) or done == settings.steps
            if saves and not ended:
                save(done)  # resumed from where it had enough, a fit would go on
            try:
                for each in read:
                    tell(each)
            except Exception:  # of whoever was told; the step is kept
                if not ended:
                    for each in unread.all():
                        note(each)
                    save(done)
                raise
        late = unread.all()
        for each in late:
            note(each)
        if ended:
            with torch.no_grad():
                for name, weight in best.weights.items():
                    method.parameters()[name].copy_(weight)
            if done > first or checkpoints.pending:
                save(settings.steps, ended=bool(best.weights))  # interrupted from here on, nothing is trained again
        elif done > first:
            save(done)
        for each in late:
            tell(each)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if not ended:
            check_cancelled(cancel)


def _check_losses(values: dict[str, float], step: int, settings: FitSettings, work: Path | None) -> None:
    """Raise :class:`NotFiniteError` for the first loss that is not finite."""
    bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if bad is not None:
        rate = settings.learning_rate
        cause = f"the learning rate {rate:g} is probably too high, or the model overflows in half precision"
        raise NotFiniteError(
            f"the fit diverged: {bad} is {values[bad]} at step {step} ({cause}); lower learning_rate, or use "
            f"precision='fp32'{_kept(work)}"
        )


def _check_weights(method: Method, step: int, work: Path | None) -> None:
    """Raise :class:`NotFiniteError` if what was trained is not finite: the next loss would not be."""
    bad = first_not_finite((name, weight.detach()) for name, weight in method.parameters().items())
    if bad is not None:
        raise NotFiniteError(f"the fit diverged: {bad} is not finite at step {step}; lower learning_rate{_kept(work)}")


def _kept(work: Path | None) -> str:
    there = work is not None and (work / CHECKPOINT).is_file()
    return f"; the last good checkpoint stays in {work}" if there else ""
