"""Who is told about a fit's steps: callbacks and TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..errors import InputError, OutputError
from ..pack import ConceptPack

REPORTS = ("none", "tensorboard")


@dataclass(frozen=True)
class Looks:
    """Looks at what is learned so far, for a callback; they take their time, and change nothing of the fit.

    Attributes:
        pack: returns it as a pack, which may be drawn with.
        attention: returns a sheet of where the concepts' words look, before the fit and now, as ``attention.png``.
        maps: returns where they look now on the first picture, ``[2S, h, w]``: the first modifier, its class word, ...
    """

    pack: Callable[[], ConceptPack]
    attention: Callable[[], Image.Image]
    maps: Callable[[], Tensor]


@dataclass(frozen=True)
class StepReport:
    """What a callback learns after each step.

    Attributes:
        step: steps done, from 1.
        steps: steps in all.
        losses: scalars by name.
        seconds_left: estimate.
        looks: to be called within the callback.
    """

    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float
    looks: Looks = field(repr=False)


Report = Callable[[StepReport], Any]


def check_report_to(report_to: str | None, output_dir: Path | None) -> None:
    """Raise :class:`InputError` for an unknown place to report to, or TensorBoard without a folder for its logs."""
    if report_to not in (None, *REPORTS):
        raise InputError(f"report_to must be 'tensorboard' or 'none', got {report_to!r}")
    if report_to == "tensorboard" and output_dir is None:
        raise InputError("report_to='tensorboard' needs an output_dir to write its logs to")
    if report_to == "tensorboard" and output_dir is not None and _log_folder(output_dir).is_file():
        raise OutputError(f"{_log_folder(output_dir)} is a file, and TensorBoard's logs go there; move it away")
    if report_to == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed; run: pip install tensorboard")


def reporters(callback: Report | None, report_to: str | None, output_dir: Path | None) -> Report:
    """Return one callback for all who want to know."""
    told: list[Report] = []
    if report_to == "tensorboard":
        assert output_dir is not None
        told.append(_tensorboard(_log_folder(output_dir)))
    if callback is not None:
        told.append(callback)

    def report(step: StepReport) -> None:
        for each in told:
            each(step)

    return report


def _log_folder(output_dir: Path) -> Path:
    target = Path(os.path.realpath(output_dir))
    return target.with_name(f"{target.name}.tensorboard")


def _tensorboard(folder: Path) -> Report:
    writer: Any = None

    def report(step: StepReport) -> None:
        nonlocal writer
        if writer is None:  # at the first step, so that a fit that is refused leaves nothing
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(folder))
        for name, value in step.losses.items():
            writer.add_scalar(name, value, step.step)
        writer.flush()  # a fit may end at any step

    return report
