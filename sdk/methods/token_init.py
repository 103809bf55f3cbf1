"""What a token's embedding starts from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..errors import InputError, NotFiniteError
from ..finite import is_finite
from ..masks.crops import cut_out, grown, mask_without
from ..model.denoise import Denoiser
from ..model.latents import LatentCache
from ..model.text import TextConditioner
from ..runtime import Phase, Progress

# Rare tokens of CLIP's vocabulary that DisenDiff's released code starts from, as ids, by the number of concepts.
_CLIP_VOCABULARY = 49408
_CLIP_INITIALIZERS = {1: (42170,), 2: (47629, 42170), 3: (43514, 47629, 42170)}

_TIMESTEPS = (400, 550, 700, 850)  # colours are decided while there is much noise
_ROWS = 16  # of one forward pass


def initial_embeddings(
    conditioner: TextConditioner, concepts: Sequence[Concept], initializers: Sequence[str] = ()
) -> Tensor:
    """Return the embeddings the tokens start from, float32 ``[S, C]``.

    The means of the ``initializers`` if given, one entry for all concepts or one each; in CLIP's vocabulary the rare
    tokens of the released code (for three concepts all are set: the code forgets the middle one); elsewhere, and beyond
    three concepts, the class noun.

    Raises:
        InputError: another number of initializers.
    """
    if initializers:
        words = list(initializers) * len(concepts) if len(initializers) == 1 else list(initializers)
        if len(words) != len(concepts):
            raise InputError(f"initializers needs one entry, or one a concept ({len(concepts)}), got {len(words)}")
        return torch.stack([conditioner.embedding_of(word) for word in words])
    rare = rare_words(conditioner, len(concepts))
    return torch.stack([conditioner.embedding_of(c.noun) for c in concepts]) if rare is None else rare


def rare_words(conditioner: TextConditioner, count: int) -> Tensor | None:
    """Return embeddings ``[count, C]`` of words that CLIP hardly saw; ``None``: another vocabulary, more than three."""
    rows = _CLIP_INITIALIZERS.get(count)
    if rows is None or conditioner.vocabulary.own_words != _CLIP_VOCABULARY:  # words that were added do not matter
        return None
    return conditioner.base_rows(rows)


def best_descriptions(
    denoiser: Denoiser,
    conditioner: TextConditioner,
    concepts: Sequence[Concept],
    candidates: Sequence[str],
    image: Image.Image,
    masks: Tensor,
    latents: LatentCache,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[str]:
    """Return for each concept of a picture the candidate that describes it best, see :func:`best_description`.

    Args:
        denoiser: of the base model.
        conditioner: encodes captions.
        concepts: what the picture shows.
        candidates: words to choose from, such as ``"striped red"``.
        image: the reference picture.
        masks: where the concepts are, ``[S, r, r]``.
        latents: encodes the windows on single concepts.
        progress: told of each noise level that was looked at, concept by concept.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next one.

    Raises:
        NotFiniteError: the UNet's predictions hold NaN or infinite values.
    """
    found = []
    phase = Phase("words", len(concepts) * len(_TIMESTEPS), progress, cancel)
    regions = grown(masks)
    for index, concept in enumerate(concepts):
        window, others = cut_out(image, regions, index)
        clean = latents.mean(window)
        counted = mask_without(others, clean.shape[-1])
        words = best_description(denoiser, conditioner, concept.noun, candidates, clean, counted, phase.step)
        found.append(words)
    return found


@torch.no_grad()
def best_description(
    denoiser: Denoiser,
    conditioner: TextConditioner,
    noun: str,
    candidates: Sequence[str],
    latents: Tensor,
    mask: Tensor,
    seen: Callable[[], None] = lambda: None,
) -> str:
    """Return the candidate with the smallest denoising error in ``"photo of a {candidate} {noun}"`` (ours).

    The same noise is used for all, at four of 1000 noise levels.

    Args:
        denoiser: of the base model.
        conditioner: encodes captions.
        noun: the concept's class.
        candidates: words to choose from.
        latents: clean latents of a picture of the concept, ``[C, h, w]``.
        mask: where the error counts, ``[1, h, w]``.
        seen: called after each noise level.

    Raises:
        NotFiniteError: the UNet's predictions hold NaN or infinite values.
    """
    device = denoiser.device
    states = conditioner.encode([f"photo of a {words} {noun}" for words in candidates])
    latents, mask = latents.to(device), mask.to(device)
    errors = torch.zeros(len(candidates), device=device, dtype=torch.float32)
    for timestep in _TIMESTEPS:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep), dtype=torch.float32).to(
            device
        )
        t = torch.tensor([denoiser.level(timestep)], device=device)
        for rows, part in zip(torch.arange(len(candidates)).split(_ROWS), states.split(_ROWS), strict=True):
            clean, drawn = (x.expand(len(part), -1, -1, -1) for x in (latents, noise))
            with denoiser.installed():
                prediction, target = denoiser(clean, drawn, t, part)
            errors[rows.to(device)] += ((prediction.float() - target).square() * mask).sum((1, 2, 3))
        seen()
    if not is_finite(errors):
        raise NotFiniteError(
            "the base model's predictions hold NaN or infinite values, so no words can be chosen; load it with "
            "dtype=torch.float32, or give initializers"
        )
    return candidates[int(errors.argmin())]
