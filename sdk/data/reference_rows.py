"""Rows of the reference pictures: augmented, encoded once, and drawn at random (as Custom Diffusion augments)."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ..images.image_io import square, to_tensor
from ..masks.concept_masks import ConceptMasks
from ..masks.crops import cut_out, drawn_mask, grown, mask_where, mask_without, window_box
from ..model.latents import LatentCache, picture_name
from .augmentation import AugmentedPicture, augment
from .batch import View
from .mixing import Background, Cuttings

_MIXTURES = 64  # of the same concepts, encoded once each
_WHITE = 0.5  # in [-1, 1]; the canvas around a shrunk picture is grey, 0


class ReferenceRows:
    """A pool of augmented variants of the reference pictures.

    Args:
        images: the reference pictures.
        latents: encodes them.
        masks: where the concepts are; read again whenever they change.
        size: number of variants, rounded up so that every picture has as many; each is made and encoded when first
            drawn, whole or with one concept alone.
        resolution: side of the model's pictures, pixels.
        latent_shape: ``(channels, side)`` of the latents.
        flip: probability of a horizontal flip.
        scale: whether to use the scale augmentation.
        seed: variant ``i`` depends on it and ``i`` alone.
        sides: of the pictures as they were read, pixels; default the resolution.
        backgrounds: what mixtures stand on besides the picture's own, one as often as another.
    """

    def __init__(
        self,
        images: list[Image.Image],
        latents: LatentCache,
        masks: ConceptMasks,
        *,
        size: int,
        resolution: int,
        latent_shape: tuple[int, int],
        flip: float,
        scale: bool,
        seed: int,
        sides: Sequence[int] = (),
        backgrounds: Sequence[Background] = (),
    ):
        self.images = [square(image, resolution) for image in images]
        self.latents, self.masks, self.latent_shape = latents, masks, latent_shape
        self.sides = list(sides) or [resolution] * len(images)
        self.size = -(-size // len(images)) * len(images)  # every picture has its share
        self.flip, self.scale, self.seed = flip, scale, seed
        self.backgrounds = list(backgrounds)
        self._variants: dict[tuple[int, View], tuple[AugmentedPicture, Hashable]] = {}
        self._cuttings: dict[int, Cuttings] = {}  # by picture
        self._made_of = masks.version

    def draw(self, rng: random.Random, noise: Tensor, view: View) -> tuple[AugmentedPicture, Tensor]:
        """Return a random variant and its latents ``[C, h, w]``.

        Args:
            rng: chooses the variant.
            noise: of the posterior, ``[C, h, w]``.
            view: what to show.
        """
        if self._made_of != self.masks.version:
            self._variants = {key: v for key, v in self._variants.items() if not key[1].needs_masks}
            self._cuttings = {}
            self._made_of = self.masks.version
        index = rng.randrange(max(self.size, _MIXTURES) if view.mixed else self.size)
        shown = view if view.needs_masks else View(())  # the picture is the same whatever is named
        if (index, shown) not in self._variants:
            variant = self._variant(index, shown)
            self._variants[index, shown] = (variant, picture_name(variant.image))
        variant, name = self._variants[index, shown]
        return variant, self.latents.sample(variant.image, noise, name)

    def _variant(self, index: int, view: View) -> AugmentedPicture:
        def augmented(picture: Image.Image) -> AugmentedPicture:  # the same draw for a picture and for its masks
            own = random.Random(f"target {self.seed} {index}")
            return augment(picture, self.latent_shape[1], own, flip=self.flip, scale=self.scale)

        def where(region: Tensor, window: bool = False) -> Tensor | None:
            """Where the named concepts are in the variant; nowhere to be told if one of them has no region."""
            if not view.noisy or not regions[list(view.named)].flatten(1).any(1).all():
                return None
            drawn = drawn_mask(region, size)
            drawn = cut_out(drawn, regions, view.named[0])[0] if window else drawn
            return mask_where(augmented(drawn).image, self.latent_shape[1])

        image, side = self.images[index % len(self.images)], self.sides[index % len(self.images)]
        if not view.needs_masks:
            return replace(augmented(image), side=side)
        masks = self.masks[index % len(self.images)]
        if view.mixed:
            return replace(self._mixture(index, image, masks, view), side=side)
        regions, size = grown(masks[:-1]), image.size
        own = regions[list(view.named)].any(0)
        if view.window:
            resolution = image.width
            left, _, right, _ = window_box(regions, view.named[0], resolution)
            image, others = cut_out(image, regions, view.named[0])
            variant = replace(augmented(image), side=round(side * (right - left) / resolution))
            mask = variant.mask * mask_without(augmented(others).image, self.latent_shape[1])
            return replace(variant, mask=mask if mask.any() else variant.mask, own=where(own, window=True))
        variant = replace(augmented(image), side=side, own=where(own))
        if not view.with_masks:
            return variant
        cells = (masks.shape[-1],) * 2
        drawn = [augmented(drawn_mask(m, image.size)).image.resize(cells, Image.Resampling.BOX) for m in masks]
        moved = torch.stack([to_tensor(picture)[0] > _WHITE for picture in drawn])
        return replace(variant, concept_masks=moved.float())

    def _mixture(self, index: int, image: Image.Image, masks: Tensor, view: View) -> AugmentedPicture:
        """The named concepts on the emptied background; where they are now comes with it if it is asked for."""
        picture = index % len(self.images)
        if picture not in self._cuttings:
            self._cuttings[picture] = Cuttings(image, masks[:-1])
        rng = random.Random(f"mixture {self.seed} {index} {view.named}")
        behind = rng.choice([None, *self.backgrounds]) if self.backgrounds else None
        shown, places = self._cuttings[picture].mixed(view.named, rng, None if behind is None else behind.image)
        where = torch.cat([places, 1 - places.amax(0, keepdim=True)]) if view.with_masks else None
        own = None
        if view.noisy and places[list(view.named)].flatten(1).any(1).all():
            own = mask_where(drawn_mask(places.amax(0), image.size), self.latent_shape[1])
        whole = torch.ones(1, self.latent_shape[1], self.latent_shape[1], dtype=torch.float32)
        template = "" if behind is None else behind.template
        return AugmentedPicture(shown, "", whole, concept_masks=where, template=template, own=own)
