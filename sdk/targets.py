"""Rows of the reference pictures: augmented, encoded once, and drawn at random (disendiff.md 2.5)."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from .augmentation import AugmentedPicture, augment
from .images import square, to_tensor
from .regions import cut_out, mask_without


class LatentCache:
    """Pictures encoded by the autoencoder on first use: mean and deviation of the posterior, kept on the CPU."""

    def __init__(self, vae, device: torch.device):
        self.vae, self.device = vae, device
        self.moments: dict[Hashable, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def sample(self, key: Hashable, image: Image.Image, noise: Tensor) -> Tensor:
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
        size: number of variants, rounded up so that every picture has as many; each is made and encoded when first
            drawn, whole or with one concept alone.
        resolution: side of the model's pictures, pixels.
        latent_shape: ``(channels, side)`` of the latents.
        flip: probability of a horizontal flip.
        scale: whether to use the scale augmentation.
        seed: variant ``i`` depends on it and ``i`` alone.
        regions: where the concepts are in each picture, bool ``[S, h, w]`` at any size; ``[]`` if none is shown alone.
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
        regions: list[Tensor],
    ):
        self.images = [square(image, resolution) for image in images]
        self.cache, self.latent_shape = cache, latent_shape
        self.size = -(-size // len(images)) * len(images)  # every picture has its share
        self.flip, self.scale, self.seed, self.regions = flip, scale, seed, regions
        self.variants: dict[tuple[int, int | None], AugmentedPicture] = {}

    def draw(self, rng: random.Random, noise: Tensor, alone: int | None = None) -> tuple[Tensor, str, Tensor]:
        """Return latents ``[C, h, w]``, caption prefix and loss mask ``[1, h, w]`` of a random variant.

        Args:
            rng: chooses the variant.
            noise: of the posterior, ``[C, h, w]``.
            alone: index of the concept to show by itself; ``None``: the whole picture.
        """
        key = rng.randrange(self.size), alone
        if key not in self.variants:
            self.variants[key] = self._variant(*key)
        variant = self.variants[key]
        return self.cache.sample(key, variant.image, noise), variant.prefix, variant.mask

    def _variant(self, index: int, alone: int | None) -> AugmentedPicture:
        def augmented(picture: Image.Image) -> AugmentedPicture:  # the same draw for a picture and for its mask
            own = random.Random(f"target {self.seed} {index}")
            return augment(picture, self.latent_shape[1], own, flip=self.flip, scale=self.scale)

        image = self.images[index % len(self.images)]
        if alone is None:
            return augmented(image)
        image, others = cut_out(image, self.regions[index % len(self.images)], alone)
        variant = augmented(image)
        mask = variant.mask * mask_without(augmented(others).image, self.latent_shape[1])
        return replace(variant, mask=mask if mask.any() else variant.mask)
