"""Rows of the reference pictures: augmented, encoded once, and drawn at random (disendiff.md 2.5)."""

from __future__ import annotations

import random

import torch
from PIL import Image
from torch import Tensor

from .augmentation import AugmentedPicture, augment
from .images import square, to_tensor


class LatentCache:
    """Pictures encoded by the autoencoder on first use: mean and deviation of the posterior, kept on the CPU."""

    def __init__(self, vae, device: torch.device):
        self.vae, self.device = vae, device
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def sample(self, key: int, image: Image.Image, noise: Tensor) -> Tensor:
        """Return the posterior's sample ``[C, h, w]`` for this noise, scaled as the UNet expects."""
        if key not in self.moments:
            pixels = to_tensor(image)[None].to(self.device, self.vae.dtype)
            posterior = self.vae.encode(pixels).latent_dist
            self.moments[key] = (posterior.mean[0].float().cpu(), posterior.std[0].float().cpu())
        mean, deviation = self.moments[key]
        return (mean + deviation * noise) * self.vae.config.scaling_factor


class TargetRows:
    """A pool of augmented variants of the reference pictures.

    Args:
        images: the reference pictures.
        cache: encodes them.
        size: number of variants; each is made and encoded when first drawn.
        resolution: side of the model's pictures, pixels.
        latent_shape: ``(channels, side)`` of the latents.
        flip: probability of a horizontal flip.
        scale: whether to use the scale augmentation.
        seed: variant ``i`` depends on it and ``i`` alone.
    """

    def __init__(
        self,
        images: list[Image.Image],
        cache: LatentCache,
        *,
        size: int,
        resolution: int,
        latent_shape: tuple[int, int],
        flip: float,
        scale: bool,
        seed: int,
    ):
        self.images = [square(image, resolution) for image in images]
        self.cache, self.size, self.latent_shape = cache, size, latent_shape
        self.flip, self.scale, self.seed = flip, scale, seed
        self.variants: dict[int, AugmentedPicture] = {}

    def draw(self, rng: random.Random, noise: Tensor) -> tuple[Tensor, str, Tensor]:
        """Return latents ``[C, h, w]``, caption prefix and loss mask ``[1, h, w]`` of a random variant."""
        index = rng.randrange(self.size)
        if index not in self.variants:
            own = random.Random(f"target {self.seed} {index}")
            image = self.images[index % len(self.images)]
            self.variants[index] = augment(image, self.latent_shape[1], own, flip=self.flip, scale=self.scale)
        variant = self.variants[index]
        return self.cache.sample(index, variant.image, noise), variant.prefix, variant.mask
