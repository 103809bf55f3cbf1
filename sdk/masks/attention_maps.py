"""Where the words of a caption look on a picture, and masks of the concepts out of that."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..concepts import Concept, target_caption
from ..errors import NotFiniteError
from ..finite import is_finite
from ..model.denoise import Denoiser
from ..model.positions import ConceptPositions
from ..model.text import TextConditioner
from ..runtime import Phase, Progress, check_cancelled
from ..unet.attention import AttentionProcessor, QueryKeyRecorder
from .options import MaskOptions
from .segmentation import against_floor, refine, rescaled, resized, segment, self_attention, usable

log = logging.getLogger(__name__)
_ATTEMPTS = 8  # at masks that can be used, each with other noises
LOW_CONFIDENCE = 0.2  # of 1; masks below it are to be looked at


def low_confidence(concept: Concept, sure: float) -> str:
    """Return what is to be said of a mask that attention is not sure of."""
    return (
        f"attention does not show a {concept.noun!r} clearly (confidence {sure:.2f}); look at the mask, or give masks "
        "of your own"
    )


class AttentionProbe:
    """Looks at the attention of a base model, or of what is being trained on top of it; nothing is trained here.

    Args:
        denoiser: the base model, with or without weights of its own.
        conditioner: knows the concepts' tokens, in their order.
        concepts: the concepts.

    Attributes:
        sure: the confidence in each mask that :meth:`find_masks` found last.
    """

    def __init__(self, denoiser: Denoiser, conditioner: TextConditioner, concepts: Sequence[Concept]):
        self.denoiser, self.conditioner, self.concepts = denoiser, conditioner, list(concepts)
        self.positions = ConceptPositions(conditioner, concepts)
        self.sure: list[float] = []
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
        states = self.conditioner.encode([self.caption], embeddings)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep), dtype=torch.float32)
        t = torch.tensor([self.denoiser.level(timestep)], device=device)
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
        self,
        latents: Tensor,
        timesteps: Sequence[int],
        embeddings: Tensor,
        options: MaskOptions,
        seen: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, Tensor]:
        """Segment a picture by attention at some noise levels.

        Args:
            latents: of the clean picture, ``[C, h, w]``.
            timesteps: noise levels, of 1000.
            embeddings: of the modifiers, ``[S, C]``.
            options: how.
            seen: called after each noise level.

        Returns:
            Masks and cross-attention maps at their side, ``[S + 1, r, r]`` each, the background (the start token) last.

        Raises:
            NotFiniteError: the maps hold NaN or infinite values.
        """
        tracked = torch.cat([self._everything().flatten(), torch.tensor([0])])
        heard = QueryKeyRecorder()
        listening = {name: AttentionProcessor(listener=heard) for name in self.denoiser.mask_layers}
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
            seen()
        mean = torch.stack(refined).mean(0)
        if options.background > 0:
            mean = against_floor(rescaled(mean[:-1]), options.background)
        if not is_finite(mean):
            raise NotFiniteError(
                "the attention maps hold NaN or infinite values; load the model with dtype=torch.float32, or set "
                "precision to 'fp32'"
            )
        return segment(mean, options.margin), torch.stack(raws).mean(0)

    def find_masks(
        self,
        latents: Tensor,
        options: MaskOptions,
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Tensor:
        """Return where the concepts are on a picture, by the base model's own words; to be asked before the training.

        How sure they are is in :attr:`sure`; a concept whose mask is hardly its own is named in the log.

        Args:
            latents: of the clean picture, ``[C, h, w]``.
            options: how.
            progress: told of each noise that was looked at; every attempt is a phase of its own.
            cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next one.

        Returns:
            float ``[S + 1, r, r]`` of 0 and 1, the background last. A concept that no noise shows clearly has none.

        Raises:
            NotFiniteError: the maps hold NaN or infinite values.
        """
        masks = self._looked_for(latents, options, progress, cancel)
        self.sure = self.confidence(latents, masks, options)
        for concept, sure in zip(self.concepts, self.sure, strict=True):
            if sure < LOW_CONFIDENCE:
                log.warning(low_confidence(concept, sure))
        return masks

    def _looked_for(
        self, latents: Tensor, options: MaskOptions, progress: Progress | None, cancel: threading.Event | None
    ) -> Tensor:
        for choice in dict.fromkeys((options, MaskOptions())):
            for attempt in range(_ATTEMPTS):
                rng = random.Random(f"masks {attempt}")
                timesteps = [rng.randrange(choice.noise) for _ in range(choice.draws)]
                seen = Phase("masks", len(timesteps), progress, cancel).step
                masks, _ = self.masks_at(latents, timesteps, self.noun_embeddings(), choice, seen)
                if usable(masks[:-1]):
                    return masks.cpu()
                check_cancelled(cancel)
            log.warning("with %s, attention shows no clear mask of every concept; trying otherwise", choice)
        log.warning("a concept has no mask; give masks of your own")
        return masks.cpu()

    def confidence(self, latents: Tensor, masks: Tensor, options: MaskOptions) -> list[float]:
        """Return how sure attention is of each concept's mask, from 0 to 1.

        Inside its mask, a concept's words get a share a of the attention that all words of the caption get (start,
        end and padding are no words). If the k of its words out of n were like any others, a would be k / n. The
        confidence is (a - k / n) / (1 - k / n), what is above chance of what could be, 0 if it is below. A thing that
        is not there has a mask, too: where its word comes out least badly.

        Args:
            latents: of the clean picture, ``[C, h, w]``.
            masks: of the concepts, ``[S, r, r]`` or more.
            options: half of its ``noise`` is the noise level.
        """
        ids = self.conditioner.tokenize([self.caption])[0].tolist()
        end = self.conditioner.vocabulary.end
        # A tokenizer may write unknown words as it writes the end: the last concept's are words all the same.
        last = int(self._everything().max())
        words = torch.arange(1, ids.index(end, last + 1) if end in ids[last + 1 :] else last + 1)
        self.look(latents, words, options.noise // 2, self.noun_embeddings())
        columns = resized(self.denoiser.recorder.mean()[0].float(), masks.shape[-1]).clamp(min=0)
        found = []
        for positions, mask in zip(self._everything(), masks.to(columns), strict=False):
            own = positions[positions >= 0] - 1
            share = columns[own].sum(0) / columns.sum(0).clamp(min=torch.finfo(columns.dtype).tiny)
            inside = float((share * mask).sum() / mask.sum().clamp(min=1))
            chance = len(own) / len(words)
            found.append(max((inside - chance) / (1 - chance), 0.0))
        return found

    def _everything(self) -> Tensor:
        """Positions of all concepts in the caption, int64 ``[S, 1 + P]``."""
        return self.positions.find([self.caption], [tuple(range(len(self.concepts)))])[0]
