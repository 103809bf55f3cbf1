"""The training loop that all methods share: rows, optimiser, checkpoints, metrics.

Every random number of step ``i`` comes from the seed and ``i`` alone, so a fit that was interrupted goes on
exactly where it stopped, with nothing to remember but weights and optimiser state.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from .concepts import Concept, target_caption
from .config import FitConfig
from .files import reporting_full_disk, write_bytes
from .priors import PriorRows
from .targets import TargetRows

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes:
        latents: clean, float32 ``[B, C, h, w]``.
        noise: ``[B, C, h, w]``.
        timesteps: int64 ``[B]``.
        captions: one a row.
        masks: ``[B, 1, h, w]``, where the denoising loss counts.
        is_target: bool ``[B]``; the others are priors.
        names_all: bool ``[B]``: targets whose caption names every concept.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[str]
    masks: Tensor
    is_target: Tensor
    names_all: Tensor


class Method(Protocol):
    """What the loop needs of a method."""

    compute_dtype: torch.dtype  # of the forward pass

    def parameters(self) -> dict[str, Tensor]:
        """Trainable tensors by name, float32."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The same as optimiser groups with their learning rates."""

    def installed(self) -> AbstractContextManager[None]:
        """Puts the trained tensors into the base model for the length of a block."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is the one to minimise."""


class Rows:
    """Draws the batch of any step."""

    def __init__(
        self,
        targets: TargetRows,
        priors: PriorRows | None,
        concepts: list[Concept],
        config: FitConfig,
        seed: int,
        timesteps: int,
    ):
        self.targets, self.priors, self.concepts = targets, priors, concepts
        self.config, self.seed, self.timesteps = config, seed, timesteps

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, on the CPU."""
        rng = random.Random(f"step {self.seed} {step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        channels, side = self.targets.latent_shape
        size = self.config.batch_size
        posterior_noise = torch.randn(size, channels, side, side, generator=generator)
        latents, captions, masks, is_target, names_all = [], [], [], [], []
        for row in range(size):
            target = self.priors is None or rng.random() < self.config.target_share
            if target:
                alone = None
                if self.config.alone > 0 and rng.random() < self.config.alone:
                    alone = rng.randrange(len(self.concepts))
                latent, prefix, mask = self.targets.draw(rng, posterior_noise[row], alone)
                named = self.concepts if alone is None else [self.concepts[alone]]
                captions.append(target_caption(named, prefix, rng, self.config.swap_order))
                names_all.append(len(named) == len(self.concepts))
            else:
                assert self.priors is not None
                latent, caption = self.priors.draw(rng, posterior_noise[row])
                captions.append(caption)
                mask = torch.ones(1, side, side)
                names_all.append(False)
            latents.append(latent)
            masks.append(mask)
            is_target.append(target)
        return Batch(
            latents=torch.stack(latents),
            noise=torch.randn(size, channels, side, side, generator=generator),
            timesteps=torch.randint(0, self.timesteps, (size,), generator=generator),
            captions=captions,
            masks=torch.stack(masks),
            is_target=torch.tensor(is_target),
            names_all=torch.tensor(names_all),
        )


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

    def save(self, step: int, method: Method, optimizer: torch.optim.Optimizer, metrics_bytes: int) -> None:
        """Write the checkpoint; ``metrics_bytes`` is how long the metrics file was at this step."""
        if self.folder is None:
            return
        tensors = {}
        for name, parameter in method.parameters().items():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        about = {"step": str(step), "identity": self.identity, "metrics_bytes": str(metrics_bytes)}
        write_bytes(self.folder / CHECKPOINT, save(tensors, metadata=about))

    def load(self, method: Method, optimizer: torch.optim.Optimizer) -> int:
        """Restore the checkpoint if there is one of this very fit; return the steps done."""
        if self.folder is None or not (self.folder / CHECKPOINT).is_file():
            return 0
        from safetensors import safe_open

        with safe_open(self.folder / CHECKPOINT, "pt") as opened:
            about = opened.metadata()
        if about["identity"] != self.identity:
            return 0
        tensors = load_file(self.folder / CHECKPOINT)
        for name, parameter in method.parameters().items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            optimizer.state[parameter] = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
        metrics = self.folder / METRICS
        if metrics.is_file():
            kept = metrics.read_bytes()[: int(about["metrics_bytes"])]
            write_bytes(metrics, kept)
        return int(about["step"])


def run(
    method: Method,
    rows: Rows,
    config: FitConfig,
    *,
    device: torch.device,
    work: Path | None,
    identity: str,
    report: Callable[[StepReport], Any] | None,
) -> list[dict[str, float]]:
    """Train from the last checkpoint, if any, to the last step.

    Args:
        method: what is trained and how.
        rows: the batches.
        config: steps, weight decay, precision, checkpoint interval.
        device: where to train.
        work: folder of the checkpoint and ``metrics.jsonl``, or ``None`` to keep nothing.
        identity: hash of everything the result depends on; a checkpoint of another fit is not resumed.
        report: called after each step.

    Returns:
        The losses of the steps done in this call.
    """
    optimizer = torch.optim.AdamW(method.parameter_groups(), weight_decay=config.weight_decay)
    checkpoints = Checkpoints(work, identity)
    first = checkpoints.load(method, optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=method.compute_dtype == torch.float16)
    metrics = work / METRICS if work is not None else None
    if metrics is not None and first == 0:
        metrics.unlink(missing_ok=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    history: list[dict[str, float]] = []
    begin = time.monotonic()
    for step in range(first, config.steps):
        batch = to_device(rows[step], device)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * fade(step, config)
        optimizer.zero_grad(set_to_none=True)
        with method.installed():
            losses = method.losses(batch)
            scaler.scale(losses["loss"]).backward()
        scaler.step(optimizer)
        scaler.update()
        values = {name: float(value.detach()) for name, value in losses.items()}
        history.append(values)
        if metrics is not None:
            with reporting_full_disk(metrics.parent), metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step + 1, **values}) + "\n")
        done = step + 1
        if (
            config.checkpoint_every
            and metrics is not None
            and (done % config.checkpoint_every == 0 and done < config.steps)
        ):
            checkpoints.save(done, method, optimizer, metrics.stat().st_size)
        if report is not None:
            left = (time.monotonic() - begin) / (done - first) * (config.steps - done)
            report(StepReport(done, config.steps, values, left))
    return history


def fade(step: int, config: FitConfig) -> float:
    """Return the factor on the learning rates of a step, counted from 0."""
    falling = config.decay * config.steps
    return min(1.0, (config.steps - step) / falling) if falling else 1.0


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    return Batch(
        batch.latents.to(device),
        batch.noise.to(device),
        batch.timesteps.to(device),
        batch.captions,
        batch.masks.to(device),
        batch.is_target.to(device),
        batch.names_all.to(device),
    )


def masked_denoising_loss(prediction: Tensor, target: Tensor, masks: Tensor, scale: float) -> Tensor:
    """Mean over rows of the squared error inside the mask, times ``scale``.

    Args:
        prediction: the UNet's, ``[B, C, h, w]``.
        target: noise or velocity, same shape.
        masks: ``[B, 1, h, w]``.
        scale: 4 in the released code, which divides the sum over 4 channels by a one-channel mask.
    """
    error = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    per_row = (error * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3)).clamp(min=1)
    return scale * per_row.mean()
