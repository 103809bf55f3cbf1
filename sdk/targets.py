"""Rows of the reference pictures: augmented, encoded once, and drawn at random (disendiff.md 2.5)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from .augmentation import AugmentedPicture, augment
from .images import square, to_tensor
from .learner import View
from .regions import cut_out, drawn_mask, grown, mask_without


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


_WHITE = 0.5  # in [-1, 1]; the canvas around a shrunk picture is grey, 0


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
        self.cache, self.latent_shape = cache, latent_shape
        self.size = -(-size // len(images)) * len(images)  # every picture has its share
        self.flip, self.scale, self.seed = flip, scale, seed
        self.masks: list[Tensor] = []
        self.variants: dict[tuple[int, View], AugmentedPicture] = {}

    def use_masks(self, masks: list[Tensor]) -> None:
        """Take these masks from now on: where the concepts are in each picture, float ``[S + 1, r, r]``."""
        self.masks = masks
        self.variants = {key: v for key, v in self.variants.items() if not key[1].needs_masks}

    def draw(self, rng: random.Random, noise: Tensor, view: View) -> tuple[AugmentedPicture, Tensor]:
        """Return a random variant and its latents ``[C, h, w]``.

        Args:
            rng: chooses the variant.
            noise: of the posterior, ``[C, h, w]``.
            view: what to show.
        """
        index = rng.randrange(self.size)
        shown = view if view.needs_masks else View(())  # the picture is the same whatever is named
        if (index, shown) not in self.variants:
            self.variants[index, shown] = self._variant(index, shown)
        variant = self.variants[index, shown]
        # Masks that moved make another window, so the latents are kept under the picture's own bytes.
        key = hashlib.blake2b(variant.image.tobytes()).digest()
        return variant, self.cache.sample(key, variant.image, noise)

    def _variant(self, index: int, view: View) -> AugmentedPicture:
        def augmented(picture: Image.Image) -> AugmentedPicture:  # the same draw for a picture and for its masks
            own = random.Random(f"target {self.seed} {index}")
            return augment(picture, self.latent_shape[1], own, flip=self.flip, scale=self.scale)

        image = self.images[index % len(self.images)]
        if not view.needs_masks:
            return augmented(image)
        masks = self.masks[index % len(self.images)]
        if view.window:
            image, others = cut_out(image, grown(masks[:-1]), view.named[0])
            variant = augmented(image)
            mask = variant.mask * mask_without(augmented(others).image, self.latent_shape[1])
            return replace(variant, mask=mask if mask.any() else variant.mask)
        variant = augmented(image)
        side = masks.shape[-1]
        drawn = [augmented(drawn_mask(m, image.size)).image.resize((side, side), Image.Resampling.BOX) for m in masks]
        moved = torch.stack([to_tensor(picture)[0] > _WHITE for picture in drawn])
        return replace(variant, concept_masks=moved.float())
