"""Where the words of a caption look on a picture, and masks of the concepts out of that."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..concepts import Concept, target_caption
from ..model.attention import AttentionProcessor, QueryKeyRecorder
from ..model.denoise import Denoiser
from ..model.layers import mask_layers
from ..model.positions import ConceptPositions
from ..model.text import TextConditioner
from .options import MaskOptions
from .segmentation import against_floor, refine, rescaled, resized, segment, self_attention, usable

log = logging.getLogger(__name__)
_ATTEMPTS = 8  # at masks that can be used, each with other noises


class AttentionProbe:
    """Looks at the attention of a base model, or of what is being trained on top of it; nothing is trained here.

    Args:
        denoiser: the base model, with or without weights of its own.
        conditioner: knows the concepts' tokens, in their order.
        concepts: the concepts.
    """

    def __init__(self, denoiser: Denoiser, conditioner: TextConditioner, concepts: Sequence[Concept]):
        self.denoiser, self.conditioner, self.concepts = denoiser, conditioner, list(concepts)
        self.positions = ConceptPositions(conditioner, concepts)
        self.caption = target_caption(self.concepts, "", random.Random(0), 0.0)  # photo of a <new1> cat and <new2> dog

    def noun_embeddings(self) -> Tensor:
        """Return the nouns' embeddings ``[S, C]``, to stand in for the modifiers when only the base's words count."""
        rows = torch.stack([self.conditioner.embedding_of(c.noun) for c in self.concepts])
        return rows.to(self.denoiser.device)

    @torch.no_grad()
    def look(
        self,
        latents: Tensor,
        tracked: Tensor,
        timestep: int,
        embeddings: Tensor,
        listening: Mapping[str, AttentionProcessor] = MappingProxyType({}),
    ) -> None:
        """Record the maps of the caption's tokens on a clean picture at one noise level.

        Args:
            latents: of the picture, ``[C, h, w]``.
            tracked: positions in the caption, int64 ``[K]``.
            timestep: of 1000; also the seed of the noise.
            embeddings: of the modifiers, ``[S, C]``.
            listening: processors of further layers.
        """
        device = self.denoiser.device
        states = self.conditioner.encode(self.conditioner.tokenize([self.caption]), embeddings)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep))
        t = torch.tensor([timestep], device=device)
        with self.denoiser.installed(listening):
            self.denoiser(latents[None].to(device), noise[None].to(device), t, states, tracked[None])

    def reference_maps(
        self, latents: Tensor, embeddings: Tensor, timesteps: tuple[int, ...] = (300, 500, 700)
    ) -> Tensor:
        """Return the maps ``[2S, h, w]`` of every modifier and class word, mean over a few noise levels.

        Args:
            latents: of the clean picture, ``[C, h, w]``.
            embeddings: of the modifiers, ``[S, C]``.
            timesteps: noise levels, of 1000.
        """
        tracked = self._everything().flatten()
        maps = []
        for timestep in timesteps:
            self.look(latents, tracked, timestep, embeddings)
            maps.append(self.positions.maps(self.denoiser.recorder.mean())[0].float())
        return torch.stack(maps).mean(0)

    def masks_at(
        self, latents: Tensor, timesteps: Sequence[int], embeddings: Tensor, options: MaskOptions
    ) -> tuple[Tensor, Tensor]:
        """Segment a picture by attention at some noise levels.

        Args:
            latents: of the clean picture, ``[C, h, w]``.
            timesteps: noise levels, of 1000.
            embeddings: of the modifiers, ``[S, C]``.
            options: how.

        Returns:
            Masks and cross-attention maps at their side, ``[S + 1, r, r]`` each, the background (the start token) last.
        """
        tracked = torch.cat([self._everything().flatten(), torch.tensor([0])])
        heard = QueryKeyRecorder()
        listening = {name: AttentionProcessor(listener=heard) for name in mask_layers(self.denoiser.unet)}
        raws, refined = [], []
        for timestep in timesteps:
            heard.layers = []
            self.look(latents, tracked, timestep, embeddings, listening)
            columns = self.denoiser.recorder.mean()[0].float()
            # A phrase of several words is where any of them is; padding has no map.
            phrases = columns[:-1].unflatten(0, (len(self.concepts), -1)).amax(1)
            raw = resized(torch.cat([phrases, columns[-1:]]), round(heard.layers[0][0].shape[1] ** 0.5))
            raws.append(raw)
            refined.append(refine(raw, self_attention(heard.layers), options.power))
        mean = torch.stack(refined).mean(0)
        if options.background > 0:
            mean = against_floor(rescaled(mean[:-1]), options.background)
        return segment(mean, options.margin), torch.stack(raws).mean(0)

    def find_masks(self, latents: Tensor, options: MaskOptions) -> Tensor:
        """Return where the concepts are on a picture, by the base model's own words; to be asked before the training.

        Returns:
            float ``[S + 1, r, r]`` of 0 and 1, the background last. A concept that no noise shows clearly has none.
        """
        for choice in dict.fromkeys((options, MaskOptions())):
            for attempt in range(_ATTEMPTS):
                rng = random.Random(f"masks {attempt}")
                timesteps = [rng.randrange(choice.noise) for _ in range(choice.draws)]
                masks, _ = self.masks_at(latents, timesteps, self.noun_embeddings(), choice)
                if usable(masks[:-1]):
                    return masks.cpu()
            log.warning("with %s, attention shows no clear mask of every concept; trying otherwise", choice)
        log.warning("a concept has no mask; give masks of your own")
        return masks.cpu()

    def _everything(self) -> Tensor:
        """Positions of all concepts in the caption, int64 ``[S, 1 + P]``."""
        return self.positions.find([self.caption], [tuple(range(len(self.concepts)))])[0]
