"""Pictures to latents, each encoded once, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from ..errors import NotFiniteError
from ..finite import is_finite
from ..images.image_io import to_tensor
from ..views import float32_view, in_turn


def encoded(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the autoencoder's posterior, ``[B, C, h, w]`` each, not scaled.

    Args:
        vae: the autoencoder; where its half precision overflows, it computes in float32.
        pixels: in [-1, 1], ``[B, 3, H, W]``.

    Raises:
        NotFiniteError: the latents hold NaN or infinite values in float32, too.
    """

    def parameters(module: Any, given: Tensor) -> Tensor:
        return module.encode(given).latent_dist.parameters

    found = _finite(vae, parameters, pixels, "the autoencoder makes NaN or infinite latents of a picture")
    posterior = DiagonalGaussianDistribution(found)  # it hides an infinite deviation, hence the look before
    return posterior.mean, posterior.std


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Return the pictures ``[B, 3, H, W]`` of latents, about [-1, 1]; see :func:`encoded`.

    Args:
        vae: the autoencoder.
        latents: finite, scaled as the UNet has them, ``[B, C, h, w]``.

    Raises:
        NotFiniteError: the pictures hold NaN or infinite values in float32, too.
    """

    def picture(module: Any, given: Tensor) -> Tensor:
        return module.decode(given / module.config.scaling_factor, return_dict=False)[0]

    return _finite(vae, picture, latents, "the autoencoder makes NaN or infinite pixels")


@torch.no_grad()
def _finite(vae: Any, compute: Callable[[Any, Tensor], Tensor], given: Tensor, wrong: str) -> Tensor:
    """Compute in the autoencoder's own precision, then in float32 if that overflowed."""
    with in_turn(vae):
        result = compute(vae, given.to(vae.dtype))
    if not is_finite(result) and vae.dtype in (torch.float16, torch.bfloat16):
        result = compute(float32_view(vae), given.float())
    if not is_finite(result):
        raise NotFiniteError(f"{wrong}; its weights are damaged, so load another model")
    return result


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

        Raises:
            NotFiniteError: see :func:`encoded`.
        """
        mean, deviation = self._encoded(image, name)
        return (mean + deviation * noise) * self.vae.config.scaling_factor

    def mean(self, image: Image.Image) -> Tensor:
        """Return the posterior's mean ``[C, h, w]``, scaled likewise."""
        return self._encoded(image)[0] * self.vae.config.scaling_factor

    def _encoded(self, image: Image.Image, name: Hashable = None) -> tuple[Tensor, Tensor]:
        key = picture_name(image) if name is None else name
        if key not in self._moments:
            mean, deviation = encoded(self.vae, to_tensor(image)[None].to(self.device))
            self._moments[key] = (mean[0].float().cpu(), deviation[0].float().cpu())
        return self._moments[key]


def picture_name(image: Image.Image) -> Hashable:
    """Return a name by which a picture and its copies are known."""
    return hashlib.blake2b(image.tobytes()).digest()
