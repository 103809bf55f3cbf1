"""The training loop that all methods share."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data.rows import Rows
from ..files import reporting_full_disk
from ..methods.base import Method
from ..runtime import Cancelled, check_cancelled
from ..settings import FitSettings
from .checkpoint import METRICS, Checkpoints
from .early_stopping import Best
from .reporting import Report, StepReport

log = logging.getLogger(__name__)


def run(
    method: Method,
    rows: Rows,
    settings: FitSettings,
    *,
    device: torch.device,
    work: Path | None,
    identity: str,
    report: Report,
    validate: Callable[[], dict[str, float]] | None = None,
    cancel: threading.Event | None = None,
) -> list[dict[str, float]]:
    """Train from the last checkpoint, if any, to the last step, or until validation stops it.

    Args:
        method: what is trained and how.
        rows: the batches.
        settings: steps, weight decay, checkpoint interval.
        device: where to train.
        work: folder of the checkpoint and ``metrics.jsonl``, or ``None`` to keep nothing.
        identity: hash of everything the result depends on; a checkpoint of another fit is not resumed.
        report: called after each step.
        validate: returns a ``"score"`` and more of the present weights, asked every ``settings.validate_every`` steps;
            the fit ends with the weights that scored best.
        cancel: an event; once set, the checkpoint is written and the fit ends before its next step.

    Returns:
        The losses of the steps done in this call.

    Raises:
        Cancelled: ``cancel`` was set.
    """
    optimizer = torch.optim.AdamW(method.parameter_groups(), weight_decay=settings.weight_decay)
    checkpoints = Checkpoints(work, identity)
    best = Best(settings.patience)
    first = checkpoints.load(method, optimizer, best)
    scaler = torch.amp.GradScaler(device.type, enabled=method.denoiser.dtype == torch.float16)
    metrics = work / METRICS if work is not None else None
    if metrics is not None and first == 0:
        metrics.unlink(missing_ok=True)

    def save(done: int) -> None:
        if metrics is not None:
            checkpoints.save(done, method, optimizer, metrics.stat().st_size if metrics.is_file() else 0, best)

    history: list[dict[str, float]] = []
    begin = time.monotonic()
    for step in range(first, settings.steps):
        try:
            check_cancelled(cancel)
        except Cancelled:
            if step > first:
                save(step)
            raise
        values = train_step(method, rows, optimizer, scaler, step, device)
        history.append(values)
        done = step + 1
        if metrics is not None:
            _note(metrics, {"step": done, **values})
        enough = False
        if validate is not None and (done % settings.validate_every == 0 or done == settings.steps):
            found = validate()
            enough = best.see(found["score"], done, method.parameters())
            log.info("step %d: validation score %.3f, best %.3f at %d", done, found["score"], best.score, best.step)
            if metrics is not None:
                _note(metrics, {"step": done, "validation": found})
        due = settings.checkpoint_every and done % settings.checkpoint_every == 0
        if due and done < settings.steps and not enough:  # resumed from where it had enough, a fit would go on
            save(done)
        left = (time.monotonic() - begin) / (done - first) * (settings.steps - done)
        report(StepReport(done, settings.steps, values, left))
        if enough:
            log.info("stopped at step %d: no better score since step %d", done, best.step)
            break
    with torch.no_grad():
        for name, weight in best.weights.items():
            method.parameters()[name].copy_(weight)
    if history:
        save(settings.steps)  # interrupted from here on, nothing is trained again
    return history


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
    with method.installed():
        losses = method.losses(batch)
        learnable = losses["loss"].requires_grad  # not where tokens alone train and a step drew priors alone
        if learnable:
            scaler.scale(losses["loss"]).backward()
    if learnable:
        scaler.step(optimizer)
        scaler.update()
    return {name: float(value.detach()) for name, value in losses.items()}


def _note(metrics: Path, entry: dict[str, Any]) -> None:
    with reporting_full_disk(metrics.parent), metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
