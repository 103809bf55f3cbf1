"""The state of an interrupted fit on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from ...files import write_bytes
from ...methods.base import Method
from ..early_stopping import Best
from ..request import FitRequest
from .metrics import METRICS

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself.

    Attributes:
        step: steps done.
        depends_on: what the fit depended on, see :func:`sdk.fit.identity.depends_on`; ``None``: an earlier version's.
        metadata: everything, as it is in the file.
    """

    step: int
    depends_on: dict[str, Any] | None
    metadata: dict[str, str]


def read_about(folder: Path) -> About | None:
    """Return what the checkpoint in a folder says of itself, or ``None`` if there is none."""
    if not (folder / CHECKPOINT).is_file():
        return None
    with safe_open(folder / CHECKPOINT, "pt") as opened:
        metadata = opened.metadata()
    parts = json.loads(metadata["depends_on"]) if "depends_on" in metadata else None
    return About(int(metadata["step"]), parts, metadata)


class Checkpoints:
    """One checkpoint in the work folder, written atomically: parameters, AdamW's state, masks and the step.

    Args:
        folder: where; ``None`` keeps nothing.
        asked: what the fit depends on; a checkpoint of another fit is not read.
    """

    def __init__(self, folder: Path | None, asked: FitRequest):
        self.folder, self.asked = folder, asked

    def save(self, step: int, method: Method, optimizer: torch.optim.Optimizer, metrics_bytes: int, best: Best) -> None:
        """Write the checkpoint; ``metrics_bytes`` is how long the metrics file was at this step."""
        if self.folder is None:
            return
        tensors = {}
        for name, parameter in method.parameters().items():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        tensors |= {f"masks/{index}": mask.contiguous() for index, mask in enumerate(method.masks)}
        tensors |= {f"best/{name}": weight for name, weight in best.weights.items()}
        about = {"step": str(step), "metrics_bytes": str(metrics_bytes)}
        about |= {"identity": self.asked.identity_of_steps, "depends_on": json.dumps(self.asked.depends_on)}
        about["best"] = json.dumps([best.score, best.step, best.waited])
        write_bytes(self.folder / CHECKPOINT, save(tensors, metadata=about))

    def load(self, method: Method, optimizer: torch.optim.Optimizer, best: Best) -> int:
        """Restore the checkpoint if there is one of this very fit; return the steps done."""
        found = None if self.folder is None else read_about(self.folder)
        if self.folder is None or found is None or found.metadata["identity"] != self.asked.identity_of_steps:
            return 0
        about = found.metadata
        tensors = load_file(self.folder / CHECKPOINT)
        for name, parameter in method.parameters().items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            optimizer.state[parameter] = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
        best.score, best.step, best.waited = json.loads(about["best"])
        best.weights = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best/")}
        for index in range(len(method.masks)):
            method.masks[index] = tensors[f"masks/{index}"]
        metrics = self.folder / METRICS
        if metrics.is_file():
            kept = metrics.read_bytes()[: int(about["metrics_bytes"])]
            write_bytes(metrics, kept)
        return int(about["step"])
