"""What a fit needs, made before its first step: prior pictures, masks, words to start from, rows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..concepts import Concept
from ..config import FitConfig
from ..data.priors import PriorPicture, prior_pictures
from ..data.reference_rows import ReferenceRows
from ..data.rows import PriorRows, Rows
from ..methods import method_class
from ..methods.base import Method
from ..methods.token_init import best_descriptions
from ..model.denoise import Denoiser
from ..model.latents import LatentCache
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..rules.prompts import word_notes
from ..runtime import Progress, check_cancelled
from ..sampling.engine import Engine
from .drawn.backgrounds import backgrounds_for
from .drawn.priors import depends_on, drawer
from .identity import library_versions
from .request import FitRequest

log = logging.getLogger("sdk")
_OF_DRAWN_PRIORS = ("prior_count", "prior_steps", "prior_guidance")


@dataclass(frozen=True)
class PreparedFit:
    """A fit before its first step.

    Attributes:
        request: what is asked for.
        method: the trainable tensors, and where the concepts are.
        rows: the batches.
        clean: clean latents of the reference pictures.
        words: that the tokens start from, if any were chosen.
        before: maps of the concepts' words on the first picture, ``[2S, h, w]``.
    """

    request: FitRequest
    method: Method
    rows: Rows
    clean: list[Tensor]
    words: list[str]
    before: Tensor

    def pack(self, engine: Engine) -> ConceptPack:
        """Return what is learned so far.

        Raises:
            NotFiniteError: weights that are no numbers, or too large for float16, in which packs hold them.
        """
        asked = self.request
        pack = ConceptPack(
            concepts=asked.concepts,
            base=engine.base,
            key_value=self.method.key_value(),
            embeddings=self.method.embeddings,
            unet=self.method.other_weights(),
            method=asked.method,
            settings=asked.config.to_dict(),
            provenance={
                "identity_sha256": asked.identity,
                "depends_on": asked.depends_on,
                "seed": asked.seed,
                "initializers": self.words,
                "libraries": library_versions(),
                "device": engine.device.type,
                **asked.rights,
            },
            reference=asked.images[0],
        )
        pack.check_finite("what was learned")
        return pack


def prepare(
    engine: Engine, asked: FitRequest, progress: Progress | None = None, cancel: threading.Event | None = None
) -> PreparedFit:
    """Make what a fit needs: priors, masks, what tokens start from, rows.

    Args:
        engine: the base model.
        asked: what is asked for.
        progress: told about prior pictures that are drawn.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next thing is made.
    """
    config = asked.config
    check_cancelled(cancel)
    priors = priors_for(engine, asked.concepts, config, progress, cancel)
    check_cancelled(cancel)
    method: Method = method_class(asked.method)(engine, asked.concepts, config, asked.seed)
    method.hold_ready()
    if config.prior not in ("generate", "none"):
        _note_unused(engine, config)
        _note_captions(method.conditioner, [each.caption for each in priors])
    latents = LatentCache(engine.pipe.vae, engine.device, asked.coding)
    clean = [latents.mean(image) for image in asked.images]
    found = asked.masks
    if found is None:
        found = [method.probe.find_masks(each, config.masks, progress=progress, cancel=cancel) for each in clean]
    method.use_masks(found, clean)
    words = list(config.initializers)
    check_cancelled(cancel)
    if config.initializer_candidates and not words:
        words = best_descriptions(
            Denoiser(engine),
            method.conditioner,
            asked.concepts,
            config.initializer_candidates,
            asked.images[0],
            method.masks[0][:-1],
            latents,
            progress=progress,
            cancel=cancel,
        )
        method.start_from(words)
    check_cancelled(cancel)
    references = ReferenceRows(
        asked.images,
        latents,
        method.masks,
        size=config.target_pool,
        resolution=engine.resolution,
        latent_shape=engine.latent_shape,
        flip=config.flip,
        scale=config.scale_augmentation,
        seed=asked.seed,
        sides=asked.sides,
        backgrounds=backgrounds_for(engine, asked.concepts, config, latents, progress, cancel),
    )
    levels = method.denoiser.scheduler.config.num_train_timesteps
    prior_rows = PriorRows(priors, latents, config.flip) if priors else None
    rows = Rows(references, prior_rows, asked.concepts, method.row, config, asked.seed, levels)
    before = method.probe.reference_maps(clean[0], method.embeddings)
    return PreparedFit(asked, method, rows, clean, words, before)


def _note_unused(engine: Engine, config: FitConfig) -> None:
    """Say which settings of drawn priors were given beside a folder of pictures."""
    recommended = engine.recommended.get("fit", {})
    usual = {name: (getattr(FitConfig, name), recommended.get(name)) for name in _OF_DRAWN_PRIORS}
    given = [name for name, values in usual.items() if getattr(config, name) not in values]
    if given:
        log.warning("%s: of drawn priors, without effect on the pictures in %s", ", ".join(given), config.prior)


def _note_captions(conditioner: TextConditioner, captions: Sequence[str]) -> None:
    """Say what the model does not read of the captions of a user's class pictures."""
    distinct = list(dict.fromkeys(captions))
    long = [caption for caption in distinct if conditioner.truncated(caption)]
    if long:
        log.warning(
            "%d captions of class pictures are longer than the %d tokens that are read, such as %r",
            len(long),
            conditioner.length,
            long[0][:80],
        )
    unknown = list(dict.fromkeys(word for each in distinct for word in conditioner.unknown_words(each)))
    for note in word_notes("", unknown):
        log.warning("captions of class pictures: %s", note)


def priors_for(
    engine: Engine,
    concepts: Sequence[Concept],
    config: FitConfig,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[PriorPicture]:
    """Return the prior pictures of a fit: drawn by the base model and kept, or the user's, or none."""
    draw = drawer(engine, config, cancel)
    return prior_pictures(concepts, config, engine.resolution, lambda: depends_on(engine), draw, progress, cancel)
