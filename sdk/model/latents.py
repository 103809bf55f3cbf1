"""Pictures to latents, each encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import torch
from PIL import Image
from torch import Tensor

from ..images.image_io import to_tensor


def picture_name(image: Image.Image) -> Hashable:
    """Return a name by which a picture and its copies are known."""
    return hashlib.blake2b(image.tobytes()).digest()


class LatentCache:
    """Pictures encoded by the autoencoder on first use: mean and deviation of the posterior, kept on the CPU.

    A picture is known by its own pixels, so whoever shows the same one shares it; who shows it often gives it a name,
    which is found faster.

    Args:
        vae: the autoencoder.
        device: where it runs.
    """

    def __init__(self, vae, device: torch.device):
        self.vae, self.device = vae, device
        self._moments: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def sample(self, image: Image.Image, noise: Tensor, name: Hashable = None) -> Tensor:
        """Return the posterior's sample ``[C, h, w]`` for this noise, scaled as the UNet expects.

        Args:
            image: RGB.
            noise: of the posterior, ``[C, h, w]``.
            name: that no other picture has.
        """
        mean, deviation = self._encoded(image, name)
        return (mean + deviation * noise) * self.vae.config.scaling_factor

    def mean(self, image: Image.Image) -> Tensor:
        """Return the posterior's mean ``[C, h, w]``, scaled likewise."""
        return self._encoded(image)[0] * self.vae.config.scaling_factor

    @torch.no_grad()
    def _encoded(self, image: Image.Image, name: Hashable = None) -> tuple[Tensor, Tensor]:
        key = picture_name(image) if name is None else name
        if key not in self._moments:
            pixels = to_tensor(image)[None].to(self.device, self.vae.dtype)
            posterior = self.vae.encode(pixels).latent_dist
            self._moments[key] = (posterior.mean[0].float().cpu(), posterior.std[0].float().cpu())
        return self._moments[key]
