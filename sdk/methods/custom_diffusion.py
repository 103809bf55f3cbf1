"""Custom Diffusion (Kumari et al., CVPR 2023): K and V of the cross-attentions and new tokens, no other loss.

    L = L_denoise over rows of the reference and of priors

Several concepts are learned jointly here, from one picture that shows them all; :mod:`sdk.combine.merging` joins packs
that were fitted apart (its section 3.2).
"""

from __future__ import annotations

from torch import Tensor

from ..data.batch import Batch
from .base import Method
from .losses import masked_denoising_loss


class CustomDiffusion(Method):
    """Nothing but the denoising loss."""

    # 500 steps for two concepts (Kumari et al., section 4 and its code).
    fixed_shapes = True
    presets = {"reference": {"steps": 500, "swap_order": 0.0}}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``denoise``, the same."""
        denoise = masked_denoising_loss(*self.predict(batch), batch.masks, self.settings.loss_scale, batch.rows)
        return {"loss": denoise, "denoise": denoise}
