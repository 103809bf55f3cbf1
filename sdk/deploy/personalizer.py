"""Drawing with an exported model: no torch, no diffusers, no transformers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..concepts import Concept
from ..errors import BaseModelError, InputError
from ..images import square
from .adapters import ROWS, Adapter, read_adapter
from .model import ExportedModel
from .noise import Noise
from .pixels import from_pixels, mask_cells, to_pixels
from .schedulers import Ddim, DpmSolver, Scheduler

SCHEDULERS = ("ddim", "dpm")
_BATCH = 8


class Cancelled(Exception):
    """Raised by ``generate`` when its ``cancel`` event was set."""


@dataclass(frozen=True)
class Generation:
    """Pictures, in the order of the prompts."""

    images: list[Image.Image]


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


class OnnxPersonalizer:
    """An exported model and the packs that were added to it. One instance may be used by several threads.

    Args:
        model: the exported folder, opened.
    """

    def __init__(self, model: ExportedModel) -> None:
        self.model = model
        self.packs: dict[str, Adapter] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(cls, folder: str | Path, providers: Sequence[str] | None = None) -> OnnxPersonalizer:
        """Open a folder that ``export_onnx`` wrote.

        Args:
            folder: merged or shared.
            providers: ONNX Runtime's, in order of preference, such as ``["CUDAExecutionProvider"]``; default the CPU.

        Raises:
            MissingFileError: no such folder, or a part is missing.
            BaseModelError: a folder of another version, or a damaged part.
            InputError: a provider that this ONNX Runtime does not have.
        """
        return cls(ExportedModel.load(folder, providers))

    def add_pack(self, name: str, path: str | Path) -> None:
        """Add a pack, or replace the one of this name; nothing is rebuilt.

        Raises:
            InputError: a merged export, which holds its pack already.
            MissingFileError, PackError: no file, a damaged one, or no pack.
            BaseModelError: a pack of another base model.
        """
        if not self.model.shared:
            raise InputError("this export has its pack merged in; export with shared=True to add packs")
        adapter = read_adapter(path)
        why = self.model.base.difference(adapter.base)
        if why is not None:
            raise BaseModelError(f"the pack {path} belongs to another base model: {why}; export that one")
        with self._lock:
            self.packs = {**self.packs, name: adapter}

    def remove_pack(self, name: str) -> None:
        """Forget a pack."""
        with self._lock:
            self.packs = {key: value for key, value in self.packs.items() if key != name}

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        packs: str | Sequence[str | None] | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        scheduler: str = "ddim",
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        callback: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw pictures; arguments as in :meth:`sdk.Personalizer.generate`, and the same pictures for the same seed.

        Args:
            prompt: what to draw; several prompts share batches.
            packs: the name of an added pack, or one (or ``None``) for each prompt.
            num_images: pictures per prompt.
            seed: picture ``i`` of the call has the noise of ``seed + i``; ``None``: at random.
            num_inference_steps: of the sampler.
            guidance_scale: ``None``: what the base model recommends.
            eta: of DDIM.
            scheduler: ``"ddim"``, as the paper samples, or ``"dpm"`` (DPM-Solver++ 2M), good from 15 steps on.
            negative_prompt: what to steer away from; one for all, or one per prompt.
            height: in pixels; default the model's.
            width: likewise.
            callback: called with the steps done and the steps in all, of each batch.
            cancel: an event; once set, :class:`Cancelled` is raised before the next step.

        Raises:
            InputError: an unknown pack or token, wrong counts or sizes.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise InputError("give at least one prompt")
        if num_images < 1:
            raise InputError(f"num_images must be at least 1, got {num_images}")
        chosen = self._packs_for(prompts, packs)
        negatives = _one_each(negative_prompt or "", len(prompts), "negative prompt")
        for text, pack in zip(prompts, chosen, strict=True):
            self.model.prompts.check(text, self._concepts(pack))
        first = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        rows = [(i, first + i * num_images + k) for i in range(len(prompts)) for k in range(num_images)]
        sampler = _sampler(scheduler, self.model, num_inference_steps, eta)
        scale = float(self.model.about["guidance_scale"]) if guidance_scale is None else guidance_scale
        shape = (self.model.channels, self._cells(height, "height"), self._cells(width, "width"))
        images: list[Image.Image] = []
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            wanted = [(chosen[i], prompts[i]) for i, _ in part]
            minus = [(chosen[i], negatives[i]) for i, _ in part] if scale > 1 else []
            noises = [Noise(own) for _, own in part]
            images += self._draw(minus, wanted, noises, shape, sampler(), scale, callback, cancel, None)
        return Generation(images)

    def img2img(
        self,
        image: Image.Image,
        prompt: str,
        *,
        pack: str | None = None,
        strength: float = 0.6,
        seed: int = 0,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        negative_prompt: str = "",
        callback: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw a picture anew, the more of it the larger ``strength`` in (0, 1]; its centre square is used.

        The other arguments are those of :meth:`generate`, with DDIM.
        """
        if not 0 < strength <= 1:
            raise InputError(f"strength must lie above 0 and at most at 1, got {strength}")
        sampler = _sampler("ddim", self.model, num_inference_steps, eta)()
        texts = (negative_prompt, prompt)
        return self._from_picture(
            image, None, texts, pack, strength, Noise(seed), sampler, guidance_scale, callback, cancel
        )

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str,
        *,
        pack: str | None = None,
        seed: int = 0,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        negative_prompt: str = "",
        callback: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Redraw the white part of ``mask`` in ``image``; the rest keeps its pixels. The centre square is used.

        The other arguments are those of :meth:`generate`, with DDIM.
        """
        if image.size != mask.size:
            raise InputError(f"the mask must have the picture's size {image.size}, got {mask.size}; resize it")
        sampler = _sampler("ddim", self.model, num_inference_steps, eta)()
        texts = (negative_prompt, prompt)
        return self._from_picture(image, mask, texts, pack, 1.0, Noise(seed), sampler, guidance_scale, callback, cancel)

    def _from_picture(
        self,
        image: Image.Image,
        mask: Image.Image | None,
        texts: tuple[str, str],
        pack: str | None,
        strength: float,
        noise: Noise,
        sampler: Scheduler,
        guidance: float | None,
        callback: Callable[[int, int], None] | None,
        cancel: threading.Event | None,
    ) -> Generation:
        negative, prompt = texts
        (chosen,) = self._packs_for([prompt], pack)
        self.model.prompts.check(prompt, self._concepts(chosen))
        side = self.model.resolution
        picture = square(image.convert("RGB"), side)
        encoded = self.model.graphs["vae_encoder"].run({"sample": to_pixels(picture)[None]})["latent_parameters"]
        clean = encoded[:, : self.model.channels].astype(np.float32) * np.float32(self.model.about["scaling_factor"])
        hole = None
        if mask is not None:
            white = square(mask.convert("L"), side).point(lambda level: 255 if level >= 128 else 0)
            if white.getbbox() is None:
                raise InputError("the mask is black everywhere; paint white what is to be redrawn")
            hole = mask_cells(white, side // self.model.cell)
        scale = float(self.model.about["guidance_scale"]) if guidance is None else guidance
        minus = [(chosen, negative)] if scale > 1 else []
        start = Start(clean, strength, hole)
        wanted = [(chosen, prompt)]
        images = self._draw(minus, wanted, [noise], clean.shape[1:], sampler, scale, callback, cancel, start)
        if mask is not None:
            images = [Image.composite(new, picture, white) for new in images]
        return Generation(images)

    def _draw(
        self,
        minus: list[tuple[Adapter | None, str]],
        wanted: list[tuple[Adapter | None, str]],
        noises: list[Noise],
        shape: tuple[int, ...],
        sampler: Scheduler,
        scale: float,
        callback: Callable[[int, int], None] | None,
        cancel: threading.Event | None,
        start: Start | None,
    ) -> list[Image.Image]:
        """One batch, from noise to pictures."""
        unet = self.model.graphs["unet"].bound(self._conditioning([*minus, *wanted]))

        def fresh() -> np.ndarray:
            return np.concatenate([noise.normal((1, *shape)) for noise in noises])

        sample = fresh()
        skipped = 0
        if start is not None:
            kept_noise = np.concatenate([Noise(noise.seed + 1).normal(shape)[None] for noise in noises])
            skipped = len(sampler.timesteps) - max(round(len(sampler.timesteps) * start.strength), 1)
            if start.strength < 1:
                sample = self.model.levels.add_noise(start.clean, sample, int(sampler.timesteps[skipped]))
        for index in range(skipped, len(sampler.timesteps)):
            if cancel is not None and cancel.is_set():
                raise Cancelled("the drawing was cancelled")
            both = np.concatenate([sample, sample]) if minus else sample
            answer = unet.run({"sample": both, "timestep": np.asarray(sampler.timesteps[index])}).astype(np.float32)
            if minus:
                without, with_it = np.split(answer, 2)
                answer = without + np.float32(scale) * (with_it - without)
            sample = sampler.step(index, answer, sample, fresh() if sampler.needs_noise else None)
            if start is not None and start.hole is not None:
                kept = start.clean
                if index + 1 < len(sampler.timesteps):
                    kept = self.model.levels.add_noise(kept, kept_noise, int(sampler.timesteps[index + 1]))
                sample = start.hole * sample + (1 - start.hole) * kept
            if callback is not None:
                callback(index + 1 - skipped, len(sampler.timesteps) - skipped)
        latents = sample / np.float32(self.model.about["scaling_factor"])
        decoder = self.model.graphs["vae_decoder"]
        return [from_pixels(decoder.run({"latent_sample": row[None]})["sample"][0]) for row in latents]

    def _conditioning(self, wanted: list[tuple[Adapter | None, str]]) -> dict[str, np.ndarray]:
        """What the UNet needs of the prompts: computed once for each distinct pack and prompt, for all steps."""
        distinct: dict[tuple[int, str], int] = {}
        made: list[dict[str, np.ndarray]] = []
        for pack, text in wanted:
            if (id(pack), text) not in distinct:
                distinct[id(pack), text] = len(made)
                made.append(self._encode(pack, text))
        rows = [distinct[id(pack), text] for pack, text in wanted]
        return {name: np.concatenate([made[row][name] for row in rows]) for name in made[0]}

    def _encode(self, pack: Adapter | None, text: str) -> dict[str, np.ndarray]:
        feeds = {"input_ids": self.model.prompts.ids(text, self._concepts(pack))[None]}
        if pack is not None:
            feeds[ROWS] = pack.rows
        states = self.model.graphs["text_encoder"].run(feeds)["last_hidden_state"]
        if not self.model.shared:
            return {"encoder_hidden_states": states}
        weights = {} if pack is None else pack.weights
        return self.model.graphs["kv_projection"].run({"encoder_hidden_states": states, **weights})

    def _packs_for(self, prompts: list[str], packs: str | Sequence[str | None] | None) -> list[Adapter | None]:
        known = self.packs
        names = _one_each(packs, len(prompts), "pack")
        for name in names:
            if name is not None and name not in known:
                there = ", ".join(known) or "none"
                raise InputError(f"there is no pack {name!r}; add_pack was called for: {there}")
        return [None if name is None else known[name] for name in names]

    def _concepts(self, pack: Adapter | None) -> list[Concept]:
        return self.model.concepts if pack is None else pack.concepts

    def _cells(self, size: int | None, name: str) -> int:
        cell = self.model.cell
        size = self.model.resolution if size is None else size
        if size < 8 * cell or size % (8 * cell):
            raise InputError(f"{name} must be a positive multiple of {8 * cell}, got {size}")
        return size // cell


def _sampler(name: str, model: ExportedModel, steps: int, eta: float) -> Callable[[], Scheduler]:
    if name not in SCHEDULERS:
        raise InputError(f"there is no scheduler {name!r}; choose one of {', '.join(SCHEDULERS)}")
    if not 1 <= steps < 1000:
        raise InputError(f"num_inference_steps must lie between 1 and 999, got {steps}")
    return lambda: Ddim(model.levels, steps, eta) if name == "ddim" else DpmSolver(model.levels, steps)


def _one_each(given, count: int, what: str) -> list:
    values = [given] * count if given is None or isinstance(given, str) else list(given)
    if len(values) != count:
        raise InputError(f"give one {what}, or one for each of the {count} prompts, got {len(values)}")
    return values
