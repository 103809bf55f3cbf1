"""The state of an interrupted fit on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ...disk.checked import shown
from ...disk.files import write_bytes
from ...disk.reading import open_regular
from ...errors import PackError
from ...finite import first_not_finite
from ...methods.base import Method
from ..early_stopping import Best
from ..optimizers import kept_state, restore_state, state_like
from ..request import FitRequest
from .metrics import METRICS

CHECKPOINT = "checkpoint.safetensors"
_LARGEST = 64 << 30  # bytes


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself.

    Attributes:
        step: steps done.
        pending: whether the validation after that step is still to be done.
        ended: whether the weights are the best of a fit that ended, not those of the step.
        metrics_bytes: how long the metrics file was.
        best: score, its step, and validations since.
        depends_on: what the fit depended on, see :func:`sdk.fit.identity.depends_on`; ``None``: an earlier version's.
        scaler: state of float16's gradient scaler; empty: there was none.
    """

    step: int
    pending: bool
    ended: bool
    metrics_bytes: int
    best: tuple[float, int, int]
    depends_on: dict[str, Any] | None
    scaler: dict[str, float]


def read_about(folder: Path) -> About | None:
    """Return what the checkpoint in a folder says of itself, or ``None`` if there is none.

    Raises:
        PackError: a damaged checkpoint.
    """
    file = folder / CHECKPOINT
    if not os.path.lexists(file):
        return None
    open_regular(file, limit=_LARGEST, what="checkpoint", kind=PackError, advice="remove it to start anew").close()
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
    except Exception as error:  # the library's own, and OSError
        raise _damaged(file, "it is no safetensors file, or a part of one") from error
    step, metrics_bytes = _whole(about, "step"), _whole(about, "metrics_bytes")
    if not step or metrics_bytes is None:
        raise _damaged(file, "its step or the length of its metrics is no number")
    best = _best(about.get("best", ""), step)
    if best is None:
        raise _damaged(file, "its best score is none")
    parts = None
    if "depends_on" in about:
        try:
            parts = json.loads(about["depends_on"])
        except (ValueError, RecursionError):
            parts = 0
        if not isinstance(parts, dict):
            raise _damaged(file, "it does not say of which fit it is")
    scaler = _scaler(about.get("scaler", "{}"))
    if scaler is None:
        raise _damaged(file, "the state of its gradient scaler is none")
    flags = (about.get("pending") == "yes", about.get("ended") == "yes")
    return About(step, *flags, metrics_bytes, best, parts, scaler)


def _damaged(file: Path, reason: str) -> PackError:
    return PackError(f"the checkpoint {file} is damaged ({reason}); remove it to start anew")


class Checkpoints:
    """One checkpoint in the work folder, written atomically: parameters, the optimiser's state, masks and the step.

    Args:
        folder: where; ``None`` keeps nothing.
        asked: what the fit depends on.

    Attributes:
        pending: whether the validation after the step that was loaded is still to be done.
    """

    def __init__(self, folder: Path | None, asked: FitRequest):
        self.folder, self.asked = folder, asked
        self.pending = False

    def save(
        self,
        step: int,
        method: Method,
        optimizer: torch.optim.Optimizer,
        metrics_bytes: int,
        best: Best,
        pending: bool = False,
        ended: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Write the checkpoint.

        Args:
            step: steps done.
            method: what is trained.
            optimizer: and its state.
            metrics_bytes: how long the metrics file is.
            best: the best weights so far.
            pending: whether the validation after this step is still to be done.
            ended: whether the weights are the best ones of a fit that ended.
            scaler: of float16's gradients; its state goes along.
        """
        if self.folder is None:
            return
        tensors = {}
        for name, parameter in method.parameters().items():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
            for key, value in kept_state(optimizer, parameter).items():
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
        tensors |= {f"masks/{index}": mask.contiguous() for index, mask in enumerate(method.masks)}
        tensors |= {f"best/{name}": weight for name, weight in best.weights.items()}
        about = {"step": str(step), "metrics_bytes": str(metrics_bytes)}
        about |= {"depends_on": json.dumps(self.asked.depends_on), "pending": "yes" if pending else "no"}
        about["ended"] = "yes" if ended else "no"
        about["best"] = json.dumps([best.score, best.step, best.waited])
        if scaler is not None and scaler.is_enabled():
            about["scaler"] = json.dumps(scaler.state_dict())
        about["hash"] = _hash(tensors, about)
        write_bytes(self.folder / CHECKPOINT, save(tensors, metadata=about))

    def load(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        best: Best,
        scaler: torch.amp.GradScaler | None = None,
    ) -> int:
        """Restore the checkpoint if there is one; return the steps done.

        That it is one of this very fit was checked when the output was opened. Everything else is checked before
        anything is restored.

        Raises:
            PackError: a damaged checkpoint.
        """
        about = None if self.folder is None else read_about(self.folder)
        if self.folder is None or about is None:
            return 0
        states = {name: state_like(optimizer, parameter) for name, parameter in method.parameters().items()}
        tensors = _read(self.folder / CHECKPOINT, about.step, method, states)
        for name, parameter in method.parameters().items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            state = {key: tensors[f"{key}/{name}"] for key in states[name] if f"{key}/{name}" in tensors}
            restore_state(optimizer, parameter, state)
        best.score, best.step, best.waited = about.best
        best.weights = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best/")}
        for index in range(len(method.masks)):
            method.masks[index] = tensors[f"masks/{index}"]
        metrics = self.folder / METRICS
        if metrics.is_file():
            kept = metrics.read_bytes()[: about.metrics_bytes]
            write_bytes(metrics, kept)
        if scaler is not None and scaler.is_enabled() and about.scaler:
            scaler.load_state_dict(about.scaler)
        self.pending = about.pending
        return about.step


def _read(file: Path, step: int, method: Method, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Read and check the tensors of a checkpoint; ``states``: what the optimiser keeps of each parameter."""
    if step > method.settings.steps:
        raise _damaged(file, f"it is at step {step} of a fit of {method.settings.steps}")
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            # Copied: they are views of the file, and the next one to change it would change them.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # the library's own, and KeyError of a type that torch does not have
        raise _damaged(file, "it is no safetensors file, or a part of one") from error
    if about.get("hash") != _hash(tensors, {name: text for name, text in about.items() if name != "hash"}):
        raise _damaged(file, "its hash does not match")
    wrong = _wrong_tensors(tensors, method, step, states)
    if wrong is not None:
        raise _damaged(file, f"{shown(wrong)} is missing, of another shape or type, or no number")
    return tensors


def _hash(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Hash of everything that a checkpoint holds."""
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        numbers: Any = tensor.flatten().view(torch.uint8).numpy()
        digest.update(memoryview(numbers))
    return digest.hexdigest()


def _whole(about: Mapping[str, str], name: str) -> int | None:
    text = about.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _best(text: str, step: int) -> tuple[float, int, int] | None:
    """Score, step and validations since; before the first validation the score is minus infinity."""
    try:
        score, reached, waited = json.loads(text[:200])
    except (ValueError, TypeError, RecursionError):
        return None
    counted = all(type(each) is int and 0 <= each <= step for each in (reached, waited))
    scored = type(score) in (int, float) and (isfinite(score) or (score == float("-inf") and reached == 0))
    return (float(score), reached, waited) if counted and scored else None


def _scaler(text: str) -> dict[str, float] | None:
    """The state of a gradient scaler: positive finite numbers by name, or nothing."""
    try:
        state = json.loads(text[:1000])
    except (ValueError, RecursionError):
        return None
    names = torch.amp.GradScaler("cpu").state_dict().keys()
    if not isinstance(state, dict) or (state and state.keys() != names):
        return None
    right = all(type(each) in (int, float) and isfinite(each) and 0 <= each < 1e30 for each in state.values())
    return state if right else None


def _wrong_tensors(
    tensors: Mapping[str, Tensor], method: Method, step: int, states: Mapping[str, Mapping[str, Tensor]]
) -> str | None:
    """The name of a tensor that is missing, unknown, of another shape or type than the method's, or not finite."""
    needed: dict[str, Tensor] = {f"masks/{index}": mask for index, mask in enumerate(method.masks)}
    allowed: dict[str, Tensor] = {}
    for name, parameter in method.parameters().items():
        needed[f"parameter/{name}"] = parameter
        allowed[f"best/{name}"] = parameter
        state = {f"{key}/{name}": like for key, like in states[name].items()}
        (needed if any(each in tensors for each in state) else allowed).update(state)
    kept = [name for name in tensors if name.startswith("best/")]
    if kept:  # all of them or none
        needed |= {name: tensor for name, tensor in allowed.items() if name.startswith("best/")}
    known = allowed | needed
    for name in [*needed, *tensors]:
        found, like = tensors.get(name), known.get(name)
        if found is None or like is None or found.shape != like.shape:
            return name
        if found.dtype != like.dtype and not (name.startswith("masks/") and found.is_floating_point()):
            return name
    updates = [float(tensor) for name, tensor in tensors.items() if name.startswith("step/")]
    if any(not 0 <= count <= step for count in updates):
        return "step/"
    return first_not_finite(tensors.items())
