"""Other places for mixed rows: pictures of the plain base model without the thing that they show.

Who only ever saw a subject on a beach has learned it there: asked for it in the snow, a model falls back on what it
meant before. Mixtures that stand on other backgrounds, named in their captions, show a subject wherever the base model
can draw one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ...concepts import Concept, class_prompts
from ...config import FitConfig
from ...data.mixing import Background, Cuttings
from ...data.priors import generated
from ...masks.attention_maps import AttentionProbe
from ...masks.segmentation import usable
from ...model.denoise import Denoiser
from ...model.latents import LatentCache
from ...runtime import Progress
from ...sampling.engine import Engine
from .priors import depends_on, drawer

_OF_EACH = 2  # pictures of a prompt


def backgrounds_for(
    engine: Engine,
    concepts: Sequence[Concept],
    config: FitConfig,
    latents: LatentCache,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Background]:
    """Return what mixtures stand on besides the reference's own background; none without ``mix_prompts``.

    The prompts are drawn with the concepts' classes in turn, one to a picture, and kept as priors are; what attention
    takes for that thing is filled in from around. A picture on which attention finds nothing is left out.

    Args:
        engine: the base model.
        concepts: of the fit.
        config: of the fit.
        latents: encodes pictures.
        progress: told about pictures that are drawn, phase ``"priors"``.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next picture.
    """
    templates = config.mix_prompts if config.mix > 0 else ()
    if not templates:
        return []
    drawn = [template for _ in range(_OF_EACH) for template in templates]
    shown = [(each, concepts[(i + i // len(templates)) % len(concepts)]) for i, each in enumerate(drawn)]
    prompts = [class_prompts([concept], [template])[0] for template, concept in shown]
    how = {"steps": config.prior_steps, "guidance": config.prior_guidance}
    identity = {**depends_on(engine), "sampler": how}
    draw = drawer(engine, config, cancel)
    pictures = generated(identity, prompts, len(prompts), engine.resolution, draw, progress, cancel)
    denoiser, found = Denoiser(engine), []
    for (template, concept), picture in zip(shown, pictures, strict=True):
        conditioner = engine.conditioner([concept.token], config.clip_skip)
        probe = AttentionProbe(denoiser, conditioner, [concept])
        clean = latents.mean(picture.image)
        masks, _ = probe.masks_at(clean, [config.masks.noise // 2], probe.noun_embeddings(), config.masks)
        if usable(masks[:-1]):
            found.append(Background(Cuttings(picture.image, masks[:-1].cpu()).background, template))
    return found
