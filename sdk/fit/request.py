"""What is asked of a fit, checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept, find_positions, join_phrases
from ..config import FitConfig
from ..data.augmentation import ENLARGED_PREFIXES, SHRUNK_PREFIXES
from ..errors import InputError
from ..images.image_io import square
from ..kernels import attention_backend
from ..masks.user import read_masks
from ..methods import check_family, method_class
from ..methods.token_init import initial_embeddings
from ..model.latents import PLAIN, Coding
from ..model.precision import computing_dtype, forward_dtype
from ..model.text import TextConditioner
from ..rules.prompts import word_notes
from ..sampling.engine import Engine
from ..unet.attention import check_attention
from .identity import TILE, depends_on, identity_hash
from .need.choose import within_memory
from .optimizers import check_optimizer
from .step.accelerate import check_accelerate

log = logging.getLogger("sdk")
_MUCH = 0.1  # share of a picture outside its centre square that is worth a word


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
        depends_on: everything the result depends on, see :func:`sdk.fit.identity.depends_on`.
        sides: of the pictures as they were read, pixels.
        coding: how pictures are encoded.
        rights: what is stated about the pack, see :mod:`sdk.rights`.
    """

    images: list[Image.Image]
    concepts: list[Concept]
    method: str
    config: FitConfig
    seed: int
    masks: list[Tensor] | None
    depends_on: dict[str, Any]
    rights: dict[str, str] = field(default_factory=dict)
    sides: list[int] = field(default_factory=list)
    coding: Coding = PLAIN

    @property
    def identity(self) -> str:
        """Hash of everything the result depends on."""
        return identity_hash(self.depends_on)


def check_request(
    engine: Engine,
    images: Sequence[Image.Image],
    concepts: list[Concept],
    method: str,
    config: FitConfig,
    seed: int,
    masks: Sequence[Image.Image] | None,
    before: Mapping[str, Any] | None = None,
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
        before: settings of the same fit, if it was begun before.

    Raises:
        InputError: something that cannot work.
    """
    if not isinstance(config, FitConfig):
        raise InputError("config must be a FitConfig; make one of plain values by FitConfig.from_dict")
    config = config.for_method(method)
    check_family(method, engine.family)
    check_optimizer(config.optimizer)
    check_attention(config.attention, engine.device)
    config = within_memory(engine, config, method, before)
    computing = computing_dtype(engine.pipe.unet.dtype, forward_dtype(config.precision, engine.device))
    check_accelerate(config, method_class(method), engine.device, computing)
    conditioner = engine.conditioner([c.token for c in concepts], config.clip_skip)
    initial_embeddings(conditioner, concepts, config.initializers)
    for words in config.initializer_candidates:
        conditioner.embedding_of(words)  # refuses what the base model has no words for
    for concept in concepts:
        for note in word_notes(concept.noun, conditioner.vocabulary.unknown_words(concept.noun)):
            log.warning(note)
    for words in (*config.initializers, *config.initializer_candidates):
        for note in word_notes(words, conditioner.vocabulary.unknown_words(words)):
            log.warning(note)
    if config.patience and not config.validate_every:
        log.warning("patience has no effect without validate_every")
    _check_captions(conditioner, concepts, config)
    if config.backend is not None:
        longest = max(len(conditioner.pieces(c.noun)) for c in concepts)
        tracked = len(concepts) * (1 + longest) + 1  # what masks look at; a step tracks no more
        like = torch.empty(0, dtype=computing, device=engine.device)
        try:
            attention_backend(config.backend, like, conditioner.length, tracked)
        except ValueError as error:
            raise InputError(f"{error}") from error
    given = read_masks(masks, images, len(concepts), engine.resolution) if masks is not None else None
    for image in images:
        _note_crop(image)
    squares = [square(image, engine.resolution) for image in images]
    coding = engine.coding()
    if before is not None:  # the same bits, whatever is free now
        tile = before.get(TILE)
        coding = replace(coding, tile=tile if isinstance(tile, int) and tile > 0 else None)
    result = depends_on(engine, concepts, method, config, seed, squares, given, coding.tile)
    sides = [min(image.size) for image in images]
    return FitRequest(squares, concepts, method, config, seed, given, result, sides=sides, coding=coding)


def _check_captions(conditioner: TextConditioner, concepts: Sequence[Concept], config: FitConfig) -> None:
    """Refuse concepts that the longest caption of the fit has no room for."""
    prefixes = ("", *SHRUNK_PREFIXES, *ENLARGED_PREFIXES) if config.scale_augmentation else ("",)
    for prefix in prefixes:
        caption = f"{prefix} photo of a {join_phrases([c.phrase for c in concepts])}".strip()
        ids = conditioner.tokenize([caption])[0].tolist()
        for slot, concept in enumerate(concepts):
            noun = conditioner.pieces(concept.noun)
            if not noun:
                raise InputError(f"the model has no words for {concept.noun!r}; name its class otherwise")
            try:
                find_positions(ids, conditioner.table_size + slot, noun, phrase=concept.phrase)
            except InputError as error:
                raise InputError(
                    f"a caption that names all {len(concepts)} concepts is longer than the {conditioner.length} tokens "
                    "that the model reads; name fewer of them, or use shorter nouns"
                ) from error


def _note_crop(image: Image.Image) -> None:
    """Say it if much of a picture is outside its centre square."""
    lost = 1 - min(image.size) / max(image.size)
    if lost > _MUCH:
        log.warning(
            "of the picture (%d x %d) the centre square is used, %.0f %% is cut off; cut it yourself if a subject is "
            "outside",
            *image.size,
            100 * lost,
        )
