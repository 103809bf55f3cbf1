"""One call's drawing with an exported model: prompts to what the UNet needs, noise to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..concepts import Concept
from ..errors import NotFiniteError
from ..finite import is_finite
from ..rules.drawing import skipped_steps
from ..rules.speed import EXACT, Speed
from ..runtime import Phase
from .adapters import ROWS, Adapter
from .denoise import Denoiser
from .model import ExportedModel
from .pixels import from_pixels, to_pixels
from .samplers.levels import Scheduler
from .samplers.noise import Noise

Wanted = tuple[Adapter | None, str]  # a pack and a text


@dataclass(frozen=True)
class Start:
    """Where a drawing starts from a picture.

    Attributes:
        clean: its latents, ``[1, C, h, w]``.
        strength: share of the noise levels that is drawn anew.
        hole: ``[1, 1, h, w]``, 1 where it is redrawn; ``None``: everywhere.
    """

    clean: np.ndarray
    strength: float = 1.0
    hole: np.ndarray | None = None


@dataclass(frozen=True)
class Drawing:
    """What all batches of a call share.

    Attributes:
        model: the exported model.
        sampler: makes a sampler for a batch.
        guidance: the guidance scale.
        rescale: how far the guided prediction gets back the contrast of the plain one.
        shape: of a picture's latents, ``(C, h, w)``.
        phase: of the whole call.
        start: where drawing starts from a picture.
        speed: what steps leave out.
        behind: what an inpainting UNet is told beside the latents, ``[1, 1 + C, h, w]``; ``None``: it takes none.
    """

    model: ExportedModel
    sampler: Callable[[], Scheduler]
    guidance: float
    rescale: float
    shape: tuple[int, int, int]
    phase: Phase
    start: Start | None
    speed: Speed = EXACT
    behind: np.ndarray | None = None

    def batch(self, minus: Sequence[Wanted], wanted: Sequence[Wanted], noises: Sequence[Noise]) -> list[Image.Image]:
        """Draw one batch, from noise to pictures.

        Args:
            minus: packs and negative prompts; none without guidance.
            wanted: packs and prompts.
            noises: one per prompt.

        Raises:
            NotFiniteError: text states, latents or pixels hold NaN or infinite values.
            Cancelled: the phase's ``cancel`` was set.
        """
        given = self._conditioning([*minus, *wanted])
        denoiser = Denoiser(self.model, given, bool(minus), self.speed, self.behind)
        sampler, start = self.sampler(), self.start

        def fresh() -> np.ndarray:
            return np.concatenate([noise.normal((1, *self.shape)) for noise in noises])

        sample = sampler.scale * fresh()
        skipped = 0
        if start is not None:
            kept_noise = np.concatenate([Noise(noise.seed + 1).normal(self.shape)[None] for noise in noises])
            skipped = skipped_steps(len(sampler.timesteps), start.strength)
            if start.strength < 1:
                sample = sampler.noised(skipped, start.clean, sample / sampler.scale)
        for index in range(skipped, len(sampler.timesteps)):
            without, answer = denoiser.predict(sampler.taken(index, sample), sampler.timesteps[index])
            if without is not None:
                with_it = answer
                answer = without + np.float32(self.guidance) * (with_it - without)
                if self.rescale > 0:
                    answer = _rescaled(answer, with_it, np.float32(self.rescale))
            sample = sampler.step(index, answer, sample, fresh() if sampler.needs_noise else None)
            if start is not None and start.hole is not None and self.behind is None:
                kept = sampler.noised(index + 1, start.clean, kept_noise)
                sample = start.hole * sample + (1 - start.hole) * kept
            self.phase.step()
        if not is_finite(sample):
            raise NotFiniteError(
                "the latents hold NaN or infinite values, nothing was drawn; take a smaller guidance_scale, or export "
                "the model in float32"
            )
        return [self._picture(row) for row in sample / np.float32(self.model.about["scaling_factor"])]

    def _picture(self, latents: np.ndarray) -> Image.Image:
        pixels = self.model.graphs["vae_decoder"].run({"latent_sample": latents[None]})["sample"][0]
        return from_pixels(finite(pixels, "the decoder's pixels"))

    def _conditioning(self, wanted: list[Wanted]) -> dict[str, np.ndarray]:
        """What the UNet needs of the prompts: computed once for each distinct pack and prompt, for all steps."""
        distinct: dict[tuple[int, str], int] = {}
        made: list[dict[str, np.ndarray]] = []
        for pack, text in wanted:
            if (id(pack), text) not in distinct:
                distinct[id(pack), text] = len(made)
                made.append(self._encode(pack, text))
        rows = [distinct[id(pack), text] for pack, text in wanted]
        found = {name: np.concatenate([made[row][name] for row in rows]) for name in made[0]}
        if self.model.guidance_width:
            told = _guidance(self.model.guidance_width, self.guidance)
            found["timestep_cond"] = np.repeat(told, len(rows), 0)
        return found

    def _encode(self, pack: Adapter | None, text: str) -> dict[str, np.ndarray]:
        states, further = self._states(pack, text)
        if not self.model.shared:
            return {"encoder_hidden_states": states, **further}
        weights = {} if pack is None else pack.weights
        projected = self.model.graphs["kv_projection"].run({"encoder_hidden_states": states, **weights})
        projected = {name: finite(value, "the keys and values of a prompt") for name, value in projected.items()}
        return projected | further

    def _states(self, pack: Adapter | None, text: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The text states of a prompt, ``[1, T, C]``, and what the UNet takes beside them."""
        model, found = self.model, []
        rows = [None] * len(model.tokenizers) if pack is None else model.split_rows(pack.rows)
        for encoder, tokenizer, own in zip(model.folder.encoders, model.tokenizers, rows, strict=True):
            feeds = {"input_ids": tokenizer.ids(text, concepts_of(model, pack))[None]}
            if own is not None:
                feeds[ROWS] = own
            found.append(model.graphs[encoder].run(feeds))
        if len(found) == 1:
            return finite(found[0]["last_hidden_state"], "the text states"), {}
        states = finite(np.concatenate([each["states"] for each in found], -1), "the text states")
        pooled = finite(found[-1]["pooled"], "the state of a prompt")
        if not text and model.folder.zeros_without_prompt:
            states, pooled = np.zeros_like(states), np.zeros_like(pooled)
        size = [side * model.cell for side in self.shape[1:]]
        return states, {"text_embeds": pooled, "time_ids": np.asarray([[*size, 0, 0, *size]], pooled.dtype)}


def _guidance(width: int, scale: float) -> np.ndarray:
    """What a latent consistency model's UNet takes for the guidance scale, ``[1, width]``."""
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000.0) / (half - 1)))
    angles = np.float32(1000 * (scale - 1)) * rates
    return np.pad(np.concatenate([np.sin(angles), np.cos(angles)]), (0, width % 2))[None]


def condition(model: ExportedModel, size: tuple[int, int], given: tuple[Image.Image, Image.Image] | None) -> np.ndarray:
    """Return what an inpainting UNet is told: mask and latents of what stays, ``[1, 1 + C, h, w]``.

    Args:
        model: the exported model.
        size: of the picture in pixels, height and width.
        given: a picture and a mask, white where it is redrawn; ``None``: nothing stays.

    Raises:
        NotFiniteError: the latents hold NaN or infinite values.
    """
    hole = np.ones(size, np.float32) if given is None else (np.asarray(given[1]) > 127).astype(np.float32)
    kept = np.zeros((3, *size), np.float32) if given is None else to_pixels(given[0]) * (hole < 0.5)
    latents = _latents(model, kept)
    mask = hole[:: model.cell, :: model.cell]  # the nearest pixel, as they were trained
    return np.concatenate([mask[None, None], latents], 1)


def _rescaled(guided: np.ndarray, plain: np.ndarray, share: np.float32) -> np.ndarray:
    """Give a guided prediction back the contrast of the plain one (Lin et al., WACV 2024, section 3.4)."""
    axes = (1, 2, 3)
    factor = plain.std(axes, keepdims=True, ddof=1) / np.maximum(guided.std(axes, keepdims=True, ddof=1), 1e-12)
    return share * guided * factor + (1 - share) * guided


def encoded(model: ExportedModel, picture: Image.Image) -> np.ndarray:
    """Return a square picture's latents ``[1, C, h, w]``.

    Raises:
        NotFiniteError: they hold NaN or infinite values.
    """
    return _latents(model, to_pixels(picture))


def _latents(model: ExportedModel, pixels: np.ndarray) -> np.ndarray:
    parameters = model.graphs["vae_encoder"].run({"sample": pixels[None]})["latent_parameters"]
    finite(parameters, "the picture's latents")
    return parameters[:, : model.channels].astype(np.float32) * np.float32(model.about["scaling_factor"])


def concepts_of(model: ExportedModel, pack: Adapter | None) -> list[Concept]:
    """Return the concepts of an added pack, or of the one that is merged in."""
    return model.concepts if pack is None else pack.concepts


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values, or raise :class:`NotFiniteError` saying what to do."""
    if not is_finite(values):
        raise NotFiniteError(
            f"{what} hold NaN or infinite values, nothing was drawn; the pack diverged (fit it again), or float16 "
            "overflows (export the model in float32)"
        )
    return values
