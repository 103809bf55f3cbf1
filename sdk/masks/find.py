"""Masks of a picture's concepts for a person to look at, edit and hand back."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from PIL import Image

from ..concepts import Concept
from ..images.image_io import square
from ..model.base_model import BaseModel
from ..model.denoise import Denoiser
from ..model.latents import LatentCache
from ..model.precision import forward_dtype
from ..runtime import Progress, check_cancelled
from ..turns import beside_others
from .attention_maps import AttentionProbe
from .crops import drawn_mask
from .options import MaskOptions


@beside_others()
def masks_of(
    base: BaseModel,
    picture: Image.Image,
    concepts: Sequence[Concept],
    options: MaskOptions,
    precision: str,
    *,
    clip_skip: int = 0,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Image.Image]:
    """Return one mask per concept, white on black, of the picture's size; outside its centre square black.

    Args:
        base: the base model, whose attention tells.
        picture: the reference picture.
        concepts: what to look for.
        options: how.
        precision: of the forward pass, see :func:`sdk.model.precision.forward_dtype`.
        clip_skip: see :class:`sdk.model.TextConditioner`.
        progress: told of each noise that was looked at; every attempt is a phase of its own.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next one.

    Returns:
        Pictures of mode ``L``; ``info["confidence"]`` of each says how sure attention is of it, from 0 to 1, see
        :meth:`sdk.masks.AttentionProbe.confidence`.

    Raises:
        NotFiniteError: the picture's latents or the maps hold NaN or infinite values.
    """
    check_cancelled(cancel)
    conditioner = base.conditioner([c.token for c in concepts], clip_skip)
    denoiser = Denoiser(base, dtype=forward_dtype(precision, base.device))
    latents = LatentCache(base.pipe.vae, base.device, base.coding()).mean(square(picture, base.resolution))
    probe = AttentionProbe(denoiser, conditioner, concepts)
    masks = probe.find_masks(latents, options, progress=progress, cancel=cancel)
    side = min(picture.size)
    corner = ((picture.width - side) // 2, (picture.height - side) // 2)
    found = []
    for mask, sure in zip(masks[:-1], probe.sure, strict=True):
        canvas = Image.new("L", picture.size)
        canvas.paste(drawn_mask(mask, (side, side)).convert("L"), corner)
        canvas.info["confidence"] = sure
        found.append(canvas)
    return found
