"""DisenDiff (CVPR 2024): K/V of the cross-attentions and new token embeddings, with attention calibration.

    L = L_denoise + 0.01 * mean over target rows of ( sum_i bind_i + mean_{i<j} s&s_ij )

The maps are those of the 16x16 layers, averaged over layers and heads; :mod:`sdk.kernels` has the loss.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from ..kernels import CalibrationOptions, calibration_loss
from ..learner import Batch, Learner
from ..losses import masked_denoising_loss


class DisenDiff(Learner):
    """The denoising loss, and calibration of the maps in rows that name every concept."""

    def trained_weights(self) -> list[str]:
        """K and V, and for an ablation Q too."""
        query = [f"{layer}.to_q.weight" for layer in self.layers] if self.config.train_query else []
        return super().trained_weights() + query

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise`` and, if it counts, ``calibration``."""
        config = self.config
        complete = [len(named) == len(self.concepts) for named in batch.named]
        calibrate = config.calibration_weight > 0
        looked_for = [named if all_ else () for named, all_ in zip(batch.named, complete, strict=True)]
        found, counts = self.positions(batch.captions, looked_for)
        prediction, target = self.predict(batch, found.flatten(1) if calibrate else None)
        denoise = masked_denoising_loss(prediction, target, batch.masks, config.loss_scale)
        if not calibrate:
            return {"loss": denoise, "denoise": denoise}
        calibration = self._calibration(self._per_row(counts), torch.tensor(complete, device=self.device))
        return {
            "loss": denoise + config.calibration_weight * calibration,
            "denoise": denoise,
            "calibration": calibration,
        }

    def _calibration(self, per_row: Tensor, complete: Tensor) -> Tensor:
        """Mean over micro-batches of the mean over their rows that name all (none: 0), as in gradient accumulation."""
        size = self.config.micro_batch
        parts = [
            (loss * counts).sum() / counts.sum().clamp(min=1)
            for loss, counts in zip(per_row.split(size), complete.to(per_row).split(size), strict=True)
        ]
        return torch.stack(parts).mean()

    def _per_row(self, counts: Tensor) -> Tensor:
        """Calibration loss ``[B]`` of the recorded maps, with this fit's switches."""
        config = self.config
        options = CalibrationOptions(
            normalize=config.normalize_maps,
            sigma=config.blur_sigma,
            suppress=config.suppress,
            smooth=config.smooth,
            bind=config.bind_weight,
            separate=config.separate_weight,
        )
        if (counts == 1).all() and not config.all_scales:  # the kernels take one-token nouns' columns as they are
            return self.recorder.calibration_loss(options)
        return calibration_loss(self.concept_maps(counts).float(), **asdict(options))
