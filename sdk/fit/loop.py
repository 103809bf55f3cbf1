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
from .reporting import Report, StepReport
from .request import FitRequest

log = logging.getLogger(__name__)


def run(
    method: Method,
    rows: Rows,
    settings: FitSettings,
    *,
    device: torch.device,
    work: Path | None,
    asked: FitRequest,
    report: Report,
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
        validate: returns a ``"score"`` and more of the present weights, asked every ``settings.validate_every`` steps;
            the fit ends with the weights that scored best.
        progress: told about each step, phase ``"fit"``.
        cancel: an event; once set, the checkpoint is written and the fit ends before its next step.

    Raises:
        Cancelled: ``cancel`` was set.
        KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is written first.
        NotFiniteError: a loss or a weight that is not finite; the last checkpoint stays as it is.
    """
    optimizer = build_optimizer(settings.optimizer, method.parameter_groups(), settings.weight_decay)
    checkpoints = Checkpoints(work, asked)
    best = Best(settings.patience)
    scaler = torch.amp.GradScaler(device.type, enabled=method.denoiser.dtype == torch.float16)
    first = checkpoints.load(method, optimizer, best, scaler)
    log_file = MetricsLog(work, asked, anew=first == 0)
    done = first

    def save(step: int, pending: bool = False, ended: bool = False) -> None:
        _check_weights(method, step, work)
        checkpoints.save(step, method, optimizer, log_file.size, best, pending, ended, scaler)

    def enough(step: int) -> bool:
        """Validate, if it is time; whether there has been no better score for long enough."""
        if validate is None or (step % settings.validate_every and step != settings.steps):
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

    with deferred_interrupt() as interrupted:
        phase = Phase("fit", settings.steps, progress, None, first)
        ended = done == settings.steps
        if checkpoints.pending:
            ended = enough(done) or ended
        while not ended:
            if interrupted.is_set() or (cancel is not None and cancel.is_set()):
                break
            begin = time.monotonic()
            values = train_step(method, rows, optimizer, scaler, done, device)
            done += 1
            _check_losses(values, done, settings, work)
            rates = [group["lr"] for group in optimizer.param_groups]
            log_file.step(done, values, max(rates), time.monotonic() - begin)
            ended = enough(done) or done == settings.steps
            if settings.checkpoint_every and done % settings.checkpoint_every == 0 and not ended:
                save(done)  # resumed from where it had enough, a fit would go on
            try:
                phase.step(1, values)
                report(StepReport(done, settings.steps, values, phase.seconds_left or 0.0))
            except Exception:  # of whoever was told; the step is kept
                if not ended:
                    save(done)
                raise
        if ended:
            with torch.no_grad():
                for name, weight in best.weights.items():
                    method.parameters()[name].copy_(weight)
            if done > first or checkpoints.pending:
                save(settings.steps, ended=bool(best.weights))  # interrupted from here on, nothing is trained again
        elif done > first:
            save(done)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if not ended:
            check_cancelled(cancel)


def train_step(
    method: Method,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """Draw the rows of a step, counted from 0, and update the weights; return the losses by name."""
    method.before_step(step)
    batch = rows[step].to(device)
    for group, rate in zip(optimizer.param_groups, method.rates(step), strict=True):
        group["lr"] = rate
        for parameter in group["params"]:
            parameter.requires_grad_(rate > 0)
    optimizer.zero_grad(set_to_none=True)
    learnable = False
    sums: dict[str, torch.Tensor] = {}
    with method.installed():
        for part in batch.parts(method.settings.rows_at_once):
            losses = method.losses(part)
            if losses["loss"].requires_grad:  # not where tokens alone train and there are priors alone
                scaler.scale(losses["loss"]).backward()
                learnable = True
            for name, value in losses.items():
                sums[name] = value.detach() + sums[name] if name in sums else value.detach()
    if learnable:
        scaler.step(optimizer)
        scaler.update()
    return {name: float(value) for name, value in sums.items()}


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
