"""The training loop that all methods share: rows, optimiser, checkpoints, metrics.

Every random number of step ``i`` comes from the seed and ``i`` alone, so a fit that was interrupted goes on
exactly where it stopped, with nothing to remember but weights and optimiser state.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from .concepts import target_caption
from .config import FitConfig
from .files import reporting_full_disk, write_bytes
from .learner import Batch, Learner
from .priors import PriorRows
from .stopping import Best
from .targets import TargetRows

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class Rows:
    """Draws the batch of any step: rows of the reference, as the method wants to see it, and priors."""

    def __init__(
        self,
        targets: TargetRows,
        priors: PriorRows | None,
        learner: Learner,
        config: FitConfig,
        seed: int,
        timesteps: int,
    ):
        self.targets, self.priors, self.learner = targets, priors, learner
        self.config, self.seed, self.timesteps = config, seed, timesteps

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, on the CPU."""
        rng = random.Random(f"step {self.seed} {step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        channels, side = self.targets.latent_shape
        size = self.config.batch_size
        posterior_noise = torch.randn(size, channels, side, side, generator=generator)
        latents, captions, masks, named = [], [], [], []
        concept_masks: list[Tensor | None] = []
        for row in range(size):
            if self.priors is None or rng.random() < self.config.target_share:
                view = self.learner.view(step, rng)
                variant, latent = self.targets.draw(rng, posterior_noise[row], view)
                shown = [self.learner.concepts[i] for i in view.named]
                captions.append(target_caption(shown, variant.prefix, rng, self.config.swap_order))
                mask = variant.mask
                named.append(view.named)
                concept_masks.append(variant.concept_masks)
            else:
                latent, caption = self.priors.draw(rng, posterior_noise[row])
                captions.append(caption)
                mask = torch.ones(1, side, side)
                named.append(())
                concept_masks.append(None)
            latents.append(latent)
            masks.append(mask)
        return Batch(
            latents=torch.stack(latents),
            noise=torch.randn(size, channels, side, side, generator=generator),
            timesteps=torch.randint(0, self.timesteps, (size,), generator=generator),
            captions=captions,
            masks=torch.stack(masks),
            named=named,
            concept_masks=_stacked(concept_masks),
        )


def _stacked(masks: list[Tensor | None]) -> Tensor | None:
    """One tensor of all rows' masks, zero for priors; ``None`` if no row has any."""
    some = next((m for m in masks if m is not None), None)
    return None if some is None else torch.stack([torch.zeros_like(some) if m is None else m for m in masks])


@dataclass(frozen=True)
class StepReport:
    """What a callback learns after each step.

    Attributes:
        step: steps done, from 1.
        steps: steps in all.
        losses: scalars by name.
        seconds_left: estimate.
    """

    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float


class Checkpoints:
    """One checkpoint in the work folder, written atomically: parameters, AdamW's state and the step."""

    def __init__(self, folder: Path | None, identity: str):
        self.folder, self.identity = folder, identity

    def save(
        self, step: int, learner: Learner, optimizer: torch.optim.Optimizer, metrics_bytes: int, best: Best
    ) -> None:
        """Write the checkpoint; ``metrics_bytes`` is how long the metrics file was at this step."""
        if self.folder is None:
            return
        tensors = {}
        for name, parameter in learner.parameters().items():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        tensors |= {f"masks/{index}": mask.contiguous() for index, mask in enumerate(learner.masks)}
        tensors |= {f"best/{name}": weight for name, weight in best.weights.items()}
        about = {"step": str(step), "identity": self.identity, "metrics_bytes": str(metrics_bytes)}
        about["best"] = json.dumps([best.score, best.step, best.waited])
        write_bytes(self.folder / CHECKPOINT, save(tensors, metadata=about))

    def load(self, learner: Learner, optimizer: torch.optim.Optimizer, best: Best) -> int:
        """Restore the checkpoint if there is one of this very fit; return the steps done."""
        if self.folder is None or not (self.folder / CHECKPOINT).is_file():
            return 0
        from safetensors import safe_open

        with safe_open(self.folder / CHECKPOINT, "pt") as opened:
            about = opened.metadata()
        if about["identity"] != self.identity:
            return 0
        tensors = load_file(self.folder / CHECKPOINT)
        for name, parameter in learner.parameters().items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            optimizer.state[parameter] = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
        best.score, best.step, best.waited = json.loads(about["best"])
        best.weights = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best/")}
        learner.masks = [tensors[f"masks/{index}"] for index in range(len(learner.masks))]
        metrics = self.folder / METRICS
        if metrics.is_file():
            kept = metrics.read_bytes()[: int(about["metrics_bytes"])]
            write_bytes(metrics, kept)
        return int(about["step"])


def run(
    learner: Learner,
    rows: Rows,
    config: FitConfig,
    *,
    device: torch.device,
    work: Path | None,
    identity: str,
    report: Callable[[StepReport], Any] | None,
    validate: Callable[[], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Train from the last checkpoint, if any, to the last step, or until validation stops it.

    Args:
        learner: what is trained and how.
        rows: the batches.
        config: steps, weight decay, precision, checkpoint interval.
        device: where to train.
        work: folder of the checkpoint and ``metrics.jsonl``, or ``None`` to keep nothing.
        identity: hash of everything the result depends on; a checkpoint of another fit is not resumed.
        report: called after each step.
        validate: returns a ``"score"`` and more of the present weights, asked every ``config.validate_every`` steps;
            the fit ends with the weights that scored best.

    Returns:
        The losses of the steps done in this call.
    """
    optimizer = torch.optim.AdamW(learner.parameter_groups(), weight_decay=config.weight_decay)
    checkpoints = Checkpoints(work, identity)
    best = Best(config.patience)
    first = checkpoints.load(learner, optimizer, best)
    scaler = torch.amp.GradScaler(device.type, enabled=learner.compute_dtype == torch.float16)
    metrics = work / METRICS if work is not None else None
    if metrics is not None and first == 0:
        metrics.unlink(missing_ok=True)
    history: list[dict[str, float]] = []
    begin = time.monotonic()
    rows.targets.use_masks(learner.masks)
    for step in range(first, config.steps):
        if learner.renew_masks(step):
            rows.targets.use_masks(learner.masks)
        batch = to_device(rows[step], device)
        for group, rate in zip(optimizer.param_groups, learner.rates(step), strict=True):
            group["lr"] = rate
            for parameter in group["params"]:
                parameter.requires_grad_(rate > 0)
        optimizer.zero_grad(set_to_none=True)
        with learner.installed():
            losses = learner.losses(batch)
            learnable = losses["loss"].requires_grad  # not where tokens alone train and a step drew priors alone
            if learnable:
                scaler.scale(losses["loss"]).backward()
        if learnable:
            scaler.step(optimizer)
            scaler.update()
        values = {name: float(value.detach()) for name, value in losses.items()}
        history.append(values)
        if metrics is not None:
            _note(metrics, {"step": step + 1, **values})
        done = step + 1
        enough = False
        if validate is not None and (done % config.validate_every == 0 or done == config.steps):
            found = validate()
            enough = best.see(found["score"], done, learner.parameters())
            log.info("step %d: validation score %.3f, best %.3f at %d", done, found["score"], best.score, best.step)
            if metrics is not None:
                _note(metrics, {"step": done, "validation": found})
        if (
            config.checkpoint_every
            and metrics is not None
            and (done % config.checkpoint_every == 0 and done < config.steps)
            and not enough  # resumed from here, the fit would go on
        ):
            checkpoints.save(done, learner, optimizer, metrics.stat().st_size, best)
        if report is not None:
            left = (time.monotonic() - begin) / (done - first) * (config.steps - done)
            report(StepReport(done, config.steps, values, left))
        if enough:
            log.info("stopped at step %d: no better score since step %d", done, best.step)
            break
    with torch.no_grad():
        for name, weight in best.weights.items():
            learner.parameters()[name].copy_(weight)
    return history


def _note(metrics: Path, entry: dict[str, Any]) -> None:
    with reporting_full_disk(metrics.parent), metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    return Batch(
        batch.latents.to(device),
        batch.noise.to(device),
        batch.timesteps.to(device),
        batch.captions,
        batch.masks.to(device),
        batch.named,
        None if batch.concept_masks is None else batch.concept_masks.to(device),
    )
