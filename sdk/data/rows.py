"""The batch of any step: rows of the reference, as the method wants to see it, and rows of priors.

Every random number of step ``i`` comes from the seed and ``i`` alone, so a fit that was interrupted goes on exactly
where it stopped, with nothing to remember but weights and optimiser state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from PIL import ImageOps
from torch import Tensor

from ..concepts import Concept, target_caption
from ..model.latents import LatentCache
from ..settings import FitSettings
from .batch import Batch, View
from .priors import PriorPicture
from .reference_rows import ReferenceRows


class PriorRows:
    """Draws prior pictures with a random flip (Custom Diffusion: no other augmentation, no mask).

    Args:
        pictures: with their captions.
        latents: encodes them.
        flip: probability of a horizontal flip.
    """

    def __init__(self, pictures: list[PriorPicture], latents: LatentCache, flip: float):
        self.pictures, self.latents, self.flip = pictures, latents, flip

    def draw(self, rng: random.Random, noise: Tensor) -> tuple[Tensor, PriorPicture]:
        """Return latents ``[C, h, w]`` of a random picture, and the picture."""
        index = rng.randrange(len(self.pictures))
        flipped = rng.random() < self.flip
        picture = self.pictures[index]
        image = ImageOps.mirror(picture.image) if flipped else picture.image
        return self.latents.sample(image, noise, ("prior", index, flipped)), picture


class Rows:
    """Draws the batch of any step.

    Args:
        references: rows of the reference pictures.
        priors: rows of priors, if any.
        concepts: what captions of the reference name.
        view: what a row of the reference shows at a step, the method's choice.
        settings: batch size, share of the reference, order of names.
        seed: of everything random.
        timesteps: number of noise levels of the training.
    """

    def __init__(
        self,
        references: ReferenceRows,
        priors: PriorRows | None,
        concepts: Sequence[Concept],
        view: Callable[[int, random.Random], View],
        settings: FitSettings,
        seed: int,
        timesteps: int,
    ):
        self.references, self.priors, self.concepts, self.view = references, priors, list(concepts), view
        self.settings, self.seed, self.timesteps = settings, seed, timesteps

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step counted from 0, on the CPU."""
        rng = random.Random(f"step {self.seed} {step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        channels, side = self.references.latent_shape
        size = self.settings.batch_size
        posterior_noise = torch.randn(size, channels, side, side, generator=generator, dtype=torch.float32)
        resolution = self.references.images[0].width
        latents, captions, masks, named, sizes = [], [], [], [], []
        concept_masks: list[Tensor | None] = []
        for row in range(size):
            if self.priors is None or rng.random() < self.settings.target_share:
                view = self.view(step, rng)
                variant, latent = self.references.draw(rng, posterior_noise[row], view)
                shown = [self.concepts[i] for i in view.named]
                own = (variant.prefix, rng, self.settings.swap_order, variant.template)
                captions.append(target_caption(shown, *own))
                mask = variant.mask
                if variant.own is not None:
                    latent, mask = self._outside(latent, mask, variant.own, step, row)
                named.append(view.named)
                concept_masks.append(variant.concept_masks)
                sizes.append((variant.side, *variant.crop))
            else:
                latent, picture = self.priors.draw(rng, posterior_noise[row])
                captions.append(picture.caption)
                mask = torch.ones(1, side, side, dtype=torch.float32)
                named.append(())
                concept_masks.append(None)
                sizes.append((picture.side or resolution, 0, 0))
            latents.append(latent)
            masks.append(mask)
        return Batch(
            latents=torch.stack(latents),
            noise=torch.randn(size, channels, side, side, generator=generator, dtype=torch.float32),
            timesteps=torch.randint(0, self.timesteps, (size,), generator=generator),
            captions=captions,
            masks=torch.stack(masks),
            named=named,
            step=step,
            concept_masks=_stacked(concept_masks),
            sizes=torch.tensor(
                [(side, side, top, left, resolution, resolution) for side, top, left in sizes], dtype=torch.float32
            ),
        )

    def _outside(self, latent: Tensor, mask: Tensor, own: Tensor, step: int, row: int) -> tuple[Tensor, Tensor]:
        """Put noise around the named concepts, and count the loss there as much less (MagicTailor, IJCAI 2025).

        What surrounds a subject in the only picture of it is then not learned along with it.
        """
        settings = self.settings
        share = settings.outside_noise * (1 - step / settings.steps) * (1 - own)
        generator = torch.Generator().manual_seed(random.Random(f"outside {self.seed} {step} {row}").getrandbits(62))
        noise = torch.randn(latent.shape, generator=generator, dtype=torch.float32)
        return torch.lerp(latent, noise, share), mask * (1 - share)


def _stacked(masks: list[Tensor | None]) -> Tensor | None:
    """One tensor of all rows' masks, zero for priors; ``None`` if no row has any."""
    some = next((m for m in masks if m is not None), None)
    return None if some is None else torch.stack([torch.zeros_like(some) if m is None else m for m in masks])
