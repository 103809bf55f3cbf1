"""Textual Inversion (Gal et al., ICLR 2023): the tokens' embeddings alone, everything else frozen.

    v* = argmin E || eps - eps_theta(z_t, t, c(y)) ||^2   (equation 2)

The captions keep the class noun beside each token, as all methods here do, so that the same prompts serve every method.
"""

from __future__ import annotations

from .base import PLAIN_PICTURES
from .custom_diffusion import CustomDiffusion


class TextualInversion(CustomDiffusion):
    """The denoising loss, and no weight of the UNet trains."""

    # Gal et al., section 4: 5000 steps, 0.005 a row, no priors.
    presets = {
        "reference": {
            **PLAIN_PICTURES,
            "steps": 5000,
            "token_learning_rate": 0.04,
            "batch_size": 8,
            "flip": 0.5,
            "target_pool": 16,  # both ways round are seen
            "prior": "none",
            "target_share": 1.0,
        }
    }
    unused = frozenset({"forget_layout", "kv_rank"})

    def trained_weights(self) -> list[str]:
        """None."""
        return []
