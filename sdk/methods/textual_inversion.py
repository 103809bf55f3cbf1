"""Textual Inversion (Gal et al., ICLR 2023): the tokens' embeddings alone, everything else frozen.

    v* = argmin E || eps - eps_theta(z_t, t, c(y)) ||^2   (equation 2)

The captions keep the class noun beside each token, as all methods here do, so that the same prompts serve every method.
"""

from __future__ import annotations

from .custom_diffusion import CustomDiffusion


class TextualInversion(CustomDiffusion):
    """The denoising loss, and no weight of the UNet trains."""

    def trained_weights(self) -> list[str]:
        """None."""
        return []
