"""DisenDiff (CVPR 2024): K/V of the cross-attentions and new token embeddings, with attention calibration.

    L = L_denoise + 0.01 * mean over target rows of ( sum_i bind_i + mean_{i<j} s&s_ij )

The maps are those of the 16x16 layers, averaged over layers and heads; :mod:`sdk.kernels` has the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
    fixed_shapes = True
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
        weight = self.options.calibration_weight
        tracked = batch.inputs["tracked"] if batch.inputs else self._tracked(batch)
        prediction, target = self.predict(batch, tracked if weight > 0 else None)
        denoise = masked_denoising_loss(prediction, target, batch.masks, self.settings.loss_scale, batch.rows)
        if weight == 0:
            return {"loss": denoise, "denoise": denoise}
        calibration = self._calibration(self._per_row(), batch)
        return {"loss": denoise + weight * calibration, "denoise": denoise, "calibration": calibration}

    def fixed_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Also where concepts stand, and the weight of each row's calibration loss in the step."""
        complete = torch.tensor([float(len(named) == len(self.concepts)) for named in batch.of_step])
        parts = complete.split(self.options.micro_batch)
        shares = torch.cat([part / part.sum().clamp(min=1) / len(parts) for part in parts])
        return super().fixed_inputs(batch) | {"tracked": self._tracked(batch), "shares": shares}

    def _tracked(self, batch: Batch) -> Tensor:
        """Where the concepts stand in captions that name all of them, int64 ``[B, S * (1 + P)]``."""
        looked_for = [named if len(named) == len(self.concepts) else () for named in batch.named]
        return self.positions.find(batch.captions, looked_for).flatten(1)

    def _calibration(self, per_row: Tensor, batch: Batch) -> Tensor:
        """Mean over micro-batches of the mean over their rows that name all (none: 0), as in gradient accumulation.

        Args:
            per_row: of the batch, which may be a part of a step: then its share of the mean.
            batch: whose rows these are.
        """
        if batch.inputs:
            return (per_row * batch.inputs["shares"]).sum()
        size, first = self.options.micro_batch, batch.first
        complete = torch.tensor([len(named) == len(self.concepts) for named in batch.of_step]).to(per_row)
        micro_batches = complete.split(size)
        found = []
        for index, counts in enumerate(micro_batches):
            begin, end = max(index * size, first), min((index + 1) * size, first + len(batch.named))
            if begin < end:
                own = per_row[begin - first : end - first] * complete[begin:end]
                found.append(own.sum() / counts.sum().clamp(min=1))
        return torch.stack(found).sum() / len(micro_batches)

    def _per_row(self) -> Tensor:
        """Calibration loss ``[B]`` of the recorded maps."""
        recorder, options, backend = self.denoiser.recorder, self.options.calibration, self.settings.backend
        largest = self.denoiser.family.loss_side
        if self.positions.longest == 1 and not self.options.all_scales:
            # The kernels take the columns of one-token nouns as they are.
            columns = [_pooled(each, largest) for each in recorder.columns]
            side = square_side(columns)
            return columns_loss(columns, side, side, options, backend=backend)
        maps = self.positions.maps(recorder.mean()).float()
        if largest is not None and maps.shape[-1] > largest:
            maps = F.adaptive_avg_pool2d(maps, largest)
        return calibration_loss(maps, options, backend=backend)


def _pooled(columns: Tensor, largest: int | None) -> Tensor:
    """Columns of maps, ``[B, G, K, N]``, of at most so many cells a side: the losses are made for 16 x 16."""
    side = square_side([columns])
    if largest is None or side <= largest:
        return columns
    return (
        F.adaptive_avg_pool2d(columns.unflatten(-1, (side, side)).flatten(1, 2), largest)
        .flatten(-2)
        .unflatten(1, columns.shape[1:3])
    )
