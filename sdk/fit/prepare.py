"""Everything about a fit that can be known, made or refused before its first step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..config import FitConfig
from ..data.priors import PriorPicture, prior_pictures
from ..data.reference_rows import ReferenceRows
from ..data.rows import PriorRows, Rows
from ..errors import InputError
from ..images.image_io import square
from ..kernels import attention_backend
from ..masks.user import read_masks
from ..methods import method_class
from ..methods.base import Method
from ..methods.token_init import best_descriptions, initial_embeddings
from ..model.denoise import Denoiser
from ..model.latents import LatentCache
from ..model.precision import computing_dtype, forward_dtype
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..runtime import Event, Progress, check_cancelled
from ..sampling.engine import Engine
from .output import fit_identity, library_versions


@dataclass(frozen=True)
class FitRequest:
    """What is asked of a fit, checked.

    Attributes:
        images: the reference pictures, square, at the model's resolution.
        concepts: with their tokens.
        method: its name.
        config: settings, the method's own filled in.
        seed: of everything random.
        masks: the user's, per picture float ``[S, r, r]``, or ``None``.
        identity: hash of everything the result depends on.
    """

    images: list[Image.Image]
    concepts: list[Concept]
    method: str
    config: FitConfig
    seed: int
    masks: list[Tensor] | None
    identity: str


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
        """Return what is learned so far."""
        asked = self.request
        return ConceptPack(
            concepts=asked.concepts,
            base=engine.base,
            key_value=self.method.key_value(),
            embeddings=self.method.embeddings,
            unet=self.method.other_weights(),
            method=asked.method,
            settings=asked.config.to_dict(),
            provenance={
                "identity_sha256": asked.identity,
                "seed": asked.seed,
                "initializers": self.words,
                "libraries": library_versions(),
                "device": engine.device.type,
            },
            reference=asked.images[0],
        )


def check_request(
    engine: Engine,
    images: Sequence[Image.Image],
    concepts: list[Concept],
    method: str,
    config: FitConfig,
    seed: int,
    masks: Sequence[Image.Image] | None,
) -> FitRequest:
    """Check what is asked for, and cut pictures and masks square; nothing is computed.

    Args:
        engine: the base model.
        images: the reference pictures as the user gave them.
        concepts: with their tokens.
        method: its name.
        config: settings.
        seed: of everything random.
        masks: the user's, see :func:`sdk.masks.user.read_masks`.

    Raises:
        InputError: something that cannot work.
    """
    if not isinstance(config, FitConfig):
        raise InputError("config must be a FitConfig; make one of plain values by FitConfig.from_dict")
    config = config.for_method(method)
    conditioner = TextConditioner(engine.pipe.tokenizer, engine.pipe.text_encoder, [c.token for c in concepts])
    initial_embeddings(conditioner, concepts, config.initializers)
    if config.backend is not None:
        computing = computing_dtype(engine.pipe.unet.dtype, forward_dtype(config.precision, engine.device))
        longest = max(len(conditioner.pieces(c.noun)) for c in concepts)
        tracked = len(concepts) * (1 + longest) + 1  # what masks look at; a step tracks no more
        like = torch.empty(0, dtype=computing, device=engine.device)
        try:
            attention_backend(config.backend, like, conditioner.length, tracked)
        except ValueError as error:
            raise InputError(f"{error}") from error
    given = read_masks(masks, images, len(concepts), engine.resolution) if masks is not None else None
    squares = [square(image, engine.resolution) for image in images]
    dtype = str(engine.pipe.unet.dtype)
    identity = fit_identity(engine.base, concepts, method, config, seed, dtype, squares, given)
    return FitRequest(squares, concepts, method, config, seed, given, identity)


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
    method: Method = method_class(asked.method)(engine, asked.concepts, config)
    latents = LatentCache(engine.pipe.vae, engine.device)
    clean = [latents.mean(image) for image in asked.images]
    method.use_masks(asked.masks or [method.probe.find_masks(each, config.masks) for each in clean], clean)
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
        )
        method.start_from(words)
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
    )
    levels = method.denoiser.scheduler.config.num_train_timesteps
    prior_rows = PriorRows(priors, latents, config.flip) if priors else None
    rows = Rows(references, prior_rows, asked.concepts, method.view, config, asked.seed, levels)
    before = method.probe.reference_maps(clean[0], method.embeddings)
    return PreparedFit(asked, method, rows, clean, words, before)


def priors_for(
    engine: Engine,
    concepts: Sequence[Concept],
    config: FitConfig,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[PriorPicture]:
    """Return the prior pictures of a fit: drawn by the base model and kept, or the user's, or none."""
    drawn = 0

    def draw(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        nonlocal drawn
        images = engine.draw(
            prompts,
            None,
            seed=seeds[0],
            num_inference_steps=config.prior_steps,
            guidance_scale=config.prior_guidance,
            cancel=cancel,
        ).images
        drawn += len(images)
        if progress is not None:
            progress(Event("priors", drawn, config.prior_count))
        return images

    machine = {"dtype": str(engine.pipe.unet.dtype), "device": engine.device.type}
    return prior_pictures(concepts, config, engine.base, machine, draw)
