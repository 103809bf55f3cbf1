"""DisenDiff (CVPR 2024): K/V of the cross-attentions and new token embeddings, with attention calibration.

    L = L_denoise + 0.01 * mean over target rows of ( sum_i bind_i + mean_{i<j} s&s_ij )

The maps are those of the 16x16 layers, averaged over layers and heads; :mod:`sdk.kernels` has the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch
from ..errors import InputError
from ..kernels import calibration_loss, columns_loss, square_side
from ..kernels.options import CalibrationOptions
from ..plain import setting
from ..settings import MethodOptions
from .base import Method, Variant
from .losses import masked_denoising_loss


@dataclass(frozen=True, kw_only=True)
class DisenDiffOptions(MethodOptions):
    """Settings of DisenDiff alone; defaults as in the released code."""

    calibration_weight: float = setting(0.01, "of the calibration loss, beside 4 x MSE (code); 0 leaves it out")
    calibration: CalibrationOptions = setting(CalibrationOptions(), "what the calibration loss computes")
    micro_batch: int = setting(2, "rows over which the calibration loss is averaged first (code: 4 accumulations of 2)")
    train_query: bool = setting(False, "train the cross-attentions' Q too (the paper's ablation)")
    all_scales: bool = setting(False, "calibrate the maps of every cross-attention, resized (the paper's ablation)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_weight < 0:
            raise InputError(f"disendiff.calibration_weight must not be negative, got {self.calibration_weight}")
        if self.micro_batch < 1:
            raise InputError(f"disendiff.micro_batch must be at least 1, got {self.micro_batch}")


# The paper's ablations (its section 4.3 and supplement), each a change of the reference preset.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-calibration": {"disendiff": {"calibration_weight": 0.0}},
    "no-bind": {"disendiff": {"calibration": {"bind": 0.0}}},
    "no-separate": {"disendiff": {"calibration": {"separate": 0.0}}},
    "no-suppression": {"disendiff": {"calibration": {"suppress": 0}}},
    "no-gaussian": {"disendiff": {"calibration": {"sigma": 0.0}}},
    "twice-suppressed": {"disendiff": {"calibration": {"suppress": 2}}},
    "all-scales": {"disendiff": {"all_scales": True}},
    "with-query": {"disendiff": {"train_query": True}},
    "no-order-swap": {"swap_order": 0.0},
}
# What each part of our recommended preset is worth: the preset without it.
BEST_WITHOUT: dict[str, dict[str, Any]] = {
    "best-no-calibration": {"disendiff": {"calibration_weight": 0.0}},
    "best-no-alone": {"alone": 0.0},
    "best-no-forgetting": {"forget_layout": False},
    "best-no-words": {"initializer_candidates": ()},
    "best-no-bf16": {"precision": "fp32"},
}


class DisenDiff(Method):
    """The denoising loss, and calibration of the maps in rows that name every concept."""

    Options = DisenDiffOptions
    presets = {
        # The equations read literally: no min-max, a Gaussian of sigma 0.5, no smoothing, weight 1 beside a plain MSE.
        "paper": {
            "loss_scale": 1.0,
            "swap_order": 0.0,
            "disendiff": {
                "calibration_weight": 1.0,
                "calibration": {"normalize": False, "sigma": 0.5, "smooth": 0.0},
            },
        },
        "best": {"alone": 0.5},
    }
    variants = {
        **{name: Variant("reference", changes) for name, changes in ABLATIONS.items()},
        **{name: Variant("best", changes) for name, changes in BEST_WITHOUT.items()},
    }

    def trained_weights(self) -> list[str]:
        """K and V, and for an ablation Q too."""
        query = [f"{layer}.to_q.weight" for layer in self.layers] if self.options.train_query else []
        return super().trained_weights() + query

    def records_all_layers(self) -> bool:
        """For an ablation."""
        return self.options.all_scales

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise`` and, if it counts, ``calibration``."""
        complete = [len(named) == len(self.concepts) for named in batch.named]
        weight = self.options.calibration_weight
        looked_for = [named if all_ else () for named, all_ in zip(batch.named, complete, strict=True)]
        found = self.positions.find(batch.captions, looked_for)
        prediction, target = self.predict(batch, found.flatten(1) if weight > 0 else None)
        denoise = masked_denoising_loss(prediction, target, batch.masks, self.settings.loss_scale)
        if weight == 0:
            return {"loss": denoise, "denoise": denoise}
        calibration = self._calibration(self._per_row(), torch.tensor(complete, device=self.device))
        return {"loss": denoise + weight * calibration, "denoise": denoise, "calibration": calibration}

    def _calibration(self, per_row: Tensor, complete: Tensor) -> Tensor:
        """Mean over micro-batches of the mean over their rows that name all (none: 0), as in gradient accumulation."""
        size = self.options.micro_batch
        parts = [
            (loss * counts).sum() / counts.sum().clamp(min=1)
            for loss, counts in zip(per_row.split(size), complete.to(per_row).split(size), strict=True)
        ]
        return torch.stack(parts).mean()

    def _per_row(self) -> Tensor:
        """Calibration loss ``[B]`` of the recorded maps."""
        recorder, options, backend = self.denoiser.recorder, self.options.calibration, self.settings.backend
        if (self.positions.pieces == 1).all() and not self.options.all_scales:
            # The kernels take the columns of one-token nouns as they are.
            side = square_side(recorder.columns)
            return columns_loss(recorder.columns, side, side, options, backend=backend)
        maps = self.positions.maps(recorder.mean()).float()
        return calibration_loss(maps, options, backend=backend)
