"""DreamBooth (Ruiz et al., CVPR 2023): the whole UNet, a rare identifier, and priors of the classes.

    L = || eps - eps_theta(reference, "a [V] class") ||^2 + lambda || eps - eps_theta(prior, "a class") ||^2

(equation 2).

The identifier is a word the model has hardly seen and stays as it is; lambda is the ratio of prior to reference rows.
"""

from __future__ import annotations

import torch

from .base import PLAIN_PICTURES, fade
from .custom_diffusion import CustomDiffusion
from .token_init import rare_words


class DreamBooth(CustomDiffusion):
    """The denoising loss over references and priors; every weight of the UNet trains, no embedding does."""

    # Ruiz et al., section 4, with the rate that became customary for Stable Diffusion.
    presets = {"reference": {**PLAIN_PICTURES, "steps": 1000, "learning_rate": 5e-6, "batch_size": 2}}
    whole_unet = True
    unused = frozenset({"token_learning_rate", "kv_rank"})

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        if not self.settings.initializers and rare_words(self.conditioner, len(self.concepts)) is None:
            with torch.no_grad():
                self.embeddings.copy_(unseen_words(self.embeddings))

    def trained_weights(self) -> list[str]:
        """All of them."""
        return [name for name, _ in self.unet.named_parameters()]

    def rates(self, step: int) -> list[float]:
        """The embeddings' rate is 0."""
        return [self.settings.learning_rate * fade(step, self.settings), 0.0]


def unseen_words(embeddings: torch.Tensor) -> torch.Tensor:
    """Return identifiers where no rare words are known, ``[S, C]``: random directions of the usual length."""
    drawn = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(
        embeddings
    )
    return drawn * (embeddings.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
