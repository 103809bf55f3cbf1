"""How large everything is that is measured: as on a GPU, or tiny, to go through all of it on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

KINDS = ("merged", "shared")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        device: where it computes.
        dtype: of the frozen weights.
        tiny: models of a few channels instead of those of the families.
        rounds: in which ways take turns.
        fit_steps: of a fit that is timed.
        warm_from: steps at its start that do not count: compiling, recording.
        fit_rows: of a step.
        draw_steps: of a picture.
        batches: pictures drawn together.
        packs: that share a batch.
        budgets: ``memory=`` in GB.
        families: whose memory is measured.
        product: side of the square bfloat16 product that is the ceiling.
        providers: of ONNX Runtime, a name and the order of preference each.
        compile_mode: of ``torch.compile`` for the peers that draw.
        model: a folder of Stable Diffusion 1.x to measure; ``None``: random weights.
        exports: a folder that holds or gets the exported folders ``merged`` and ``shared``; ``None``: a temporary one.
        kinds: of exported folders that are measured.
        skip: parts of names of ways to fit and draw that are left out.
    """

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    rounds: int
    fit_steps: int
    warm_from: int
    fit_rows: int
    draw_steps: int
    batches: tuple[int, ...]
    packs: int
    budgets: tuple[float, ...]
    product: int
    providers: dict[str, list[str]] = field(default_factory=dict)
    families: tuple[str, ...] = ("sd1", "sdxl", "sd2")
    compile_mode: str = "reduce-overhead"
    model: Path | None = None
    exports: Path | None = None
    kinds: tuple[str, ...] = KINDS
    skip: tuple[str, ...] = ()

    def wanted(self, ways: dict[str, Any]) -> dict[str, Any]:
        """Leave out the ways whose names are skipped."""
        return {name: way for name, way in ways.items() if not any(part in name for part in self.skip)}


def on_gpu(rounds: int) -> Sizes:
    """Those of the goals: 512 pixels, 8 rows, 50 steps."""
    return Sizes(
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        tiny=False,
        rounds=rounds,
        fit_steps=30,
        warm_from=10,
        fit_rows=8,
        draw_steps=50,
        batches=(1, 4, 16),
        packs=16,
        budgets=(8, 12, 16, 24),
        product=8192,
        providers={
            "ONNX Runtime, CUDA": ["CUDAExecutionProvider"],
            "ONNX Runtime, TensorRT": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
        },
    )


def dry() -> Sizes:
    """Everything once, in half a minute, and another one for the exports."""
    return Sizes(
        device=torch.device("cpu"),
        dtype=torch.float32,
        tiny=True,
        rounds=1,
        fit_steps=3,
        warm_from=1,
        fit_rows=2,
        draw_steps=2,
        batches=(2,),
        packs=2,
        budgets=(0.738,),  # all rows at once, one of them, or no room, as the family is
        product=256,
        providers={"ONNX Runtime, CPU": ["CPUExecutionProvider"]},
    )
