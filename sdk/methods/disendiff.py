"""DisenDiff (CVPR 2024): K/V of the cross-attentions and new token embeddings, with attention calibration.

    L = L_denoise + 0.01 * mean over target rows of ( sum_i bind_i + mean_{i<j} s&s_ij )

The maps are those of the 16x16 layers, averaged over layers and heads; :mod:`sdk.kernels` has the loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batch import Batch, View
from ..errors import InputError
from ..kernels import calibration_loss, columns_loss, square_side
from ..kernels.options import CalibrationOptions
from ..masks.segmentation import at_side
from ..plain import setting
from ..settings import MethodOptions
from .base import Method, Variant
from .losses import masked_denoising_loss
from .map_losses import EARLY, closeness, outside_loss


@dataclass(frozen=True, kw_only=True)
class DisenDiffOptions(MethodOptions):
    """Settings of DisenDiff alone; defaults as in the released code."""

    calibration_weight: float = setting(0.01, "of the calibration loss, beside 4 x MSE (code); 0 leaves it out")
    calibration: CalibrationOptions = setting(CalibrationOptions(), "what the calibration loss computes")
    micro_batch: int = setting(2, "rows over which the calibration loss is averaged first (code: 4 accumulations of 2)")
    calibration_until: float = setting(
        1.0, "share of the steps over which its weight falls to zero, evenly; 1: it stays what it is (ours)"
    )
    outside_weight: float = setting(
        0.0,
        "of what modifiers and class words look at outside of their concept's mask (punish only; MIFO: 0.01 on raw "
        "maps)",
    )
    outside_from: float = setting(0.1, "share of the steps before it counts (MIFO: a short warm-up)")
    divergence_weight: float = setting(0.0, "of minus the mutual divergence of the concepts' maps (MOSAIC)")
    train_query: bool = setting(False, "train the cross-attentions' Q too (the paper's ablation)")
    all_scales: bool = setting(False, "calibrate the maps of every cross-attention, resized (the paper's ablation)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_weight < 0:
            raise InputError(f"disendiff.calibration_weight must not be negative, got {self.calibration_weight}")
        for name in ("outside_weight", "divergence_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"disendiff.{name} must not be negative, got {getattr(self, name)}")
        for name in ("calibration_until", "outside_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"disendiff.{name} is a share of the steps, from 0 to 1, got {getattr(self, name)}")
        if self.micro_batch < 1:
            raise InputError(f"disendiff.micro_batch must be at least 1, got {self.micro_batch}")

    @property
    def varying(self) -> str | None:
        """Masks come with some batches and not with others."""
        if self.looks_further:
            return "a step with disendiff.outside_weight or divergence_weight"
        return None

    @property
    def looks_further(self) -> bool:
        """Whether maps count in other rows than those that name every concept."""
        return self.outside_weight > 0 or self.divergence_weight > 0


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
# What each part of our recommended preset is worth: the preset without it, or with the released code's.
BEST_WITHOUT: dict[str, dict[str, Any]] = {
    "best-no-calibration": {"disendiff": {"calibration_weight": 0.0}},
    "best-code-weight": {"disendiff": {"calibration_weight": 0.01}},
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
        # At the released code's weight of 0.01 modifiers do not look at their objects after a fit; at 0.03 they do.
        "best": {"alone": 0.5, "disendiff": {"calibration_weight": 0.03}},
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

    def row(self, step: int, rng: random.Random) -> View:
        """As of every method, with masks where they count."""
        view = super().row(step, rng)
        return replace(view, with_masks=True) if self.options.outside_weight and not view.window else view

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise`` and, if they count, ``calibration``, ``outside`` and ``closeness``."""
        options = self.options
        weight = options.calibration_weight
        looks = weight > 0 or options.looks_further
        tracked = batch.inputs["tracked"] if batch.inputs else self._tracked(batch)
        prediction, target = self.predict(batch, tracked if looks else None)
        denoise = masked_denoising_loss(prediction, target, batch.masks, self.settings.loss_scale, batch.rows)
        parts = {"denoise": denoise}
        loss = denoise
        if weight > 0:
            parts["calibration"] = self._calibration(self._per_row(), batch)
            loss = loss + weight * parts["calibration"]
        if options.looks_further:
            further = self._further(batch)
            parts |= further
            loss = loss + options.outside_weight * further["outside"] + options.divergence_weight * further["closeness"]
        return {"loss": loss, **parts}

    def _further(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of maps that are not calibration: of all the step's rows the mean, of a part its share."""
        maps = _at_most(self.positions.maps(self.denoiser.recorder.mean()).float(), self.denoiser.family.loss_side)
        named = maps.new_zeros(len(batch.named), len(self.concepts))
        for row, own in enumerate(batch.named):
            named[row, list(own)] = 1
        outside = closer = maps.sum() * 0
        if self.options.divergence_weight:
            closer = closeness(maps, named).sum() / batch.rows
        begun = batch.step >= self.options.outside_from * self.settings.steps
        if self.options.outside_weight and begun and batch.concept_masks is not None:
            masks = at_side(batch.concept_masks[:, : len(self.concepts)].flatten(0, 1), maps.shape[-1])
            settled = (batch.timesteps < EARLY).to(maps)
            outside = (outside_loss(maps, masks.unflatten(0, named.shape), named) * settled).sum() / batch.rows
        return {"outside": outside, "closeness": closer}

    def fixed_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Also where concepts stand, and the weight of each row's calibration loss in the step."""
        complete = torch.tensor([float(len(named) == len(self.concepts)) for named in batch.of_step])
        parts = complete.split(self.options.micro_batch)
        shares = torch.cat([part / part.sum().clamp(min=1) / len(parts) for part in parts]) * self._strength(batch)
        return super().fixed_inputs(batch) | {"tracked": self._tracked(batch), "shares": shares}

    def _strength(self, batch: Batch) -> float:
        """What of the calibration's weight is left at a step."""
        until = self.options.calibration_until
        if until == 1:
            return 1.0
        return max(1 - batch.step / (until * self.settings.steps), 0.0) if until else 0.0

    def _tracked(self, batch: Batch) -> Tensor:
        """Where the concepts stand in captions whose maps count, int64 ``[B, S * (1 + P)]``."""
        named = batch.named
        if not self.options.looks_further:
            named = [own if len(own) == len(self.concepts) else () for own in named]
        return self.positions.find(batch.captions, named).flatten(1)

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
        return torch.stack(found).sum() / len(micro_batches) * self._strength(batch)

    def _per_row(self) -> Tensor:
        """Calibration loss ``[B]`` of the recorded maps."""
        recorder, options, backend = self.denoiser.recorder, self.options.calibration, self.settings.backend
        largest = self.denoiser.family.loss_side
        if self.positions.longest == 1 and not self.options.all_scales:
            # The kernels take the columns of one-token nouns as they are.
            columns = [_pooled(each, largest) for each in recorder.columns]
            side = square_side(columns)
            return columns_loss(columns, side, side, options, backend=backend)
        maps = _at_most(self.positions.maps(recorder.mean()).float(), largest)
        return calibration_loss(maps, options, backend=backend)


def _at_most(maps: Tensor, largest: int | None) -> Tensor:
    """Maps ``[B, K, h, w]`` of at most so many cells a side: the losses are made for 16 x 16."""
    return F.adaptive_avg_pool2d(maps, largest) if largest is not None and maps.shape[-1] > largest else maps


def _pooled(columns: Tensor, largest: int | None) -> Tensor:
    """Columns of maps, ``[B, G, K, N]``, of at most so many cells a side."""
    side = square_side([columns])
    if largest is None or side <= largest:
        return columns
    return (
        F.adaptive_avg_pool2d(columns.unflatten(-1, (side, side)).flatten(1, 2), largest)
        .flatten(-2)
        .unflatten(1, columns.shape[1:3])
    )
