"""Looking at a reference picture through a learner: where each word attends, and masks out of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from .attention import AttentionProcessor, QueryKeyRecorder, attention_processors, mask_layers
from .concepts import target_caption
from .learner import Learner
from .masks import against_floor, refine, rescaled, resized, segment, self_attention, usable
from .options import MaskOptions

log = logging.getLogger(__name__)
_ATTEMPTS = 8  # at masks that can be used, each with other noises


def find_masks(learner: Learner, image_latents: Tensor) -> Tensor:
    """Return where the concepts are on a picture, by the base model's own words; to be asked before the training.

    Returns:
        float ``[S + 1, r, r]`` of 0 and 1, the background last. A concept that no noise shows clearly has none.
    """
    for options in dict.fromkeys((learner.config.masks, MaskOptions())):
        for attempt in range(_ATTEMPTS):
            rng = random.Random(f"masks {attempt}")
            timesteps = [rng.randrange(options.noise) for _ in range(options.draws)]
            masks, _ = masks_at(learner, image_latents, timesteps, learner.noun_embeddings(), options)
            if usable(masks[:-1]):
                return masks.cpu()
        log.warning("with %s, attention shows no clear mask of every concept; trying otherwise", options)
    log.warning("a concept has no mask; give masks of your own")
    return masks.cpu()


@torch.no_grad()
def look_at(
    learner: Learner,
    image_latents: Tensor,
    tracked: Tensor,
    caption: str,
    timestep: int,
    embeddings: Tensor | None = None,
    processors: Mapping[str, AttentionProcessor] = MappingProxyType({}),
) -> None:
    """Record the maps of one caption's tokens on a clean picture at one noise level, without training.

    Args:
        image_latents: ``[C, h, w]``.
        tracked: positions in the caption, int64 ``[K]``.
        caption: may hold the modifiers.
        timestep: of 1000; also the seed of the noise.
        embeddings: of the modifiers, ``[S, C]``; default the trained ones.
        processors: used in these layers besides.
    """
    states = learner.conditioner.encode(
        learner.conditioner.tokenize([caption]), learner.embeddings if embeddings is None else embeddings
    )
    noise = torch.randn(image_latents.shape, generator=torch.Generator().manual_seed(timestep))
    t = torch.tensor([timestep], device=learner.device)
    noisy = learner.scheduler.add_noise(image_latents[None].to(learner.device), noise[None].to(learner.device), t)
    learner.recorder.start(tracked[None].to(learner.device))
    with learner.installed(), attention_processors(learner.unet, processors), learner.autocast():
        learner.unet(noisy.to(learner.unet.dtype), t, states.to(learner.unet.dtype))


def full_caption(learner: Learner) -> str:
    """``photo of a <new1> cat and <new2> dog``."""
    return target_caption(learner.concepts, "", random.Random(0), 0.0)


def reference_maps(
    learner: Learner,
    image_latents: Tensor,
    timesteps: tuple[int, ...] = (300, 500, 700),
    embeddings: Tensor | None = None,
) -> Tensor:
    """Return the maps ``[2S, h, w]`` on the reference picture, mean over a few noise levels.

    Args:
        image_latents: clean latents of the picture, ``[C, h, w]``.
        timesteps: noise levels, of 1000.
        embeddings: of the modifiers, ``[S, C]``; default the trained ones.
    """
    caption = full_caption(learner)
    found, counts = learner.positions([caption], [tuple(range(len(learner.concepts)))])
    maps = []
    for timestep in timesteps:
        look_at(learner, image_latents, found[0].flatten(), caption, timestep, embeddings)
        maps.append(learner.concept_maps(counts)[0].float())
    return torch.stack(maps).mean(0)


def masks_at(
    learner: Learner,
    image_latents: Tensor,
    timesteps: Sequence[int],
    embeddings: Tensor | None = None,
    options: MaskOptions | None = None,
) -> tuple[Tensor, Tensor]:
    """Segment a picture by attention at some noise levels; ``options`` default to the fit's.

    Returns:
        Masks and cross-attention maps at their side, ``[S + 1, r, r]`` each, the background (the start token) last.
    """
    options = options or learner.config.masks
    caption = full_caption(learner)
    found, _ = learner.positions([caption], [tuple(range(len(learner.concepts)))])
    tracked = torch.cat([found[0].flatten(), torch.tensor([0])])
    heard = QueryKeyRecorder()
    listening = {name: AttentionProcessor(listener=heard) for name in mask_layers(learner.unet)}
    raws, refined = [], []
    for timestep in timesteps:
        heard.layers = []
        look_at(learner, image_latents, tracked, caption, timestep, embeddings, listening)
        columns = learner.recorder.mean()[0].float()
        # A phrase of several words is where any of them is; padding has no map.
        phrases = columns[:-1].unflatten(0, (len(learner.concepts), -1)).amax(1)
        raw = resized(torch.cat([phrases, columns[-1:]]), round(heard.layers[0][0].shape[1] ** 0.5))
        raws.append(raw)
        refined.append(refine(raw, self_attention(heard.layers), options.power))
    mean = torch.stack(refined).mean(0)
    if options.background > 0:
        mean = against_floor(rescaled(mean[:-1]), options.background)
    return segment(mean, options.margin), torch.stack(raws).mean(0)
