"""Drawing with an exported model: no torch, no diffusers, no transformers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..concepts import Concept
from ..drawing_rules import (
    Generation,
    check_counts,
    check_size,
    check_steps,
    one_each,
    picture_and_hole,
    skipped_steps,
)
from ..errors import BaseModelError, InputError
from ..images.image_io import load_image, square
from ..runtime import Event, Progress, check_cancelled
from .adapters import ROWS, Adapter, read_adapter
from .model import ExportedModel
from .noise import Noise
from .pixels import from_pixels, mask_cells, to_pixels
from .schedulers import Ddim, DpmSolver, Scheduler

Picture = str | Path | Image.Image
SCHEDULERS = ("ddim", "dpm")
_BATCH = 8
log = logging.getLogger("sdk")


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
        concepts: str | Sequence[str | None] | None = None,
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
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw pictures; arguments as in :meth:`sdk.Personalizer.generate`, and the same pictures for the same seed.

        Args:
            prompt: what to draw; several prompts share batches.
            concepts: the name of an added pack, or one (or ``None``) for each prompt.
            packs: the same by another name.
            num_images: pictures per prompt.
            seed: picture ``i`` of the call has the noise of ``seed + i``; ``None``: at random.
            num_inference_steps: of the sampler.
            guidance_scale: ``None``: what the base model recommends.
            eta: of DDIM.
            scheduler: ``"ddim"``, as the paper samples, or ``"dpm"`` (DPM-Solver++ 2M), good from 15 steps on.
            negative_prompt: what to steer away from; one for all, or one per prompt.
            height: in pixels, a multiple of the model's ``size_multiple``; default the model's.
            width: likewise.
            progress: called with a :class:`sdk.runtime.Event` after each step of each batch.
            cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.

        Raises:
            InputError: an unknown pack or token, wrong counts or sizes.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self._drawn(
            prompts,
            _named(concepts, packs),
            negative_prompt,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            scheduler=scheduler,
            size=(height, width),
            progress=progress,
            cancel=cancel,
        )

    def img2img(
        self,
        image: Picture,
        prompt: str,
        *,
        strength: float = 0.6,
        concepts: str | None = None,
        packs: str | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        scheduler: str = "ddim",
        negative_prompt: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw a picture anew, the more of it the larger ``strength`` in (0, 1]; its centre square is used.

        The other arguments are those of :meth:`generate`.
        """
        check_steps(num_inference_steps)
        skipped_steps(num_inference_steps, strength)
        clean = self._encoded(square(load_image(image), self.model.resolution))
        return self._drawn(
            [prompt],
            _named(concepts, packs),
            negative_prompt,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            scheduler=scheduler,
            start=Start(clean, strength),
            progress=progress,
            cancel=cancel,
        )

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str,
        *,
        concepts: str | None = None,
        packs: str | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        scheduler: str = "ddim",
        negative_prompt: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Redraw the white part of ``mask`` in ``image``; the rest keeps its pixels. The centre square is used.

        The other arguments are those of :meth:`generate`.
        """
        side = self.model.resolution
        picture, hole = picture_and_hole(image, mask, side)
        cells = mask_cells(hole, side // self.model.cell)
        drawn = self._drawn(
            [prompt],
            _named(concepts, packs),
            negative_prompt,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            scheduler=scheduler,
            start=Start(self._encoded(picture), 1.0, cells),
            progress=progress,
            cancel=cancel,
        )
        return Generation([Image.composite(new, picture, hole) for new in drawn.images], drawn.notes)

    def _drawn(
        self,
        prompts: list[str],
        named: str | Sequence[str | None] | None,
        negative_prompt: str | Sequence[str] | None,
        *,
        num_images: int,
        seed: int | None,
        num_inference_steps: int,
        guidance_scale: float | None,
        eta: float,
        scheduler: str,
        progress: Progress | None,
        cancel: threading.Event | None,
        size: tuple[int | None, int | None] = (None, None),
        start: Start | None = None,
    ) -> Generation:
        """Check everything, then draw a batch at a time."""
        check_counts(prompts, num_images)
        chosen = self._packs_for(prompts, named)
        negatives = one_each(negative_prompt or "", len(prompts), "negative prompt")
        found = [self.model.tokenizer.check(t, self._concepts(p)) for t, p in zip(prompts, chosen, strict=True)]
        notes = [note for note in found if note is not None]
        for note in notes:
            log.warning(note)
        check_size(*size, self.model.size_multiple)
        check_steps(num_inference_steps)
        sampler = _sampler(scheduler, self.model, num_inference_steps, eta)
        if start is not None:
            skipped_steps(num_inference_steps, start.strength)
        first = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        rows = [(i, first + i * num_images + k) for i in range(len(prompts)) for k in range(num_images)]
        scale = float(self.model.about["guidance_scale"]) if guidance_scale is None else guidance_scale
        height, width = ((self.model.resolution if s is None else s) // self.model.cell for s in size)
        images: list[Image.Image] = []
        for begin in range(0, len(rows), _BATCH):
            part = rows[begin : begin + _BATCH]
            wanted = [(chosen[i], prompts[i]) for i, _ in part]
            minus = [(chosen[i], negatives[i]) for i, _ in part] if scale > 1 else []
            noises = [Noise(own) for _, own in part]
            shape = (self.model.channels, height, width)
            images += self._draw(minus, wanted, noises, shape, sampler(), scale, progress, cancel, start)
        return Generation(images, notes)

    def _encoded(self, picture: Image.Image) -> np.ndarray:
        """A square picture's latents ``[1, C, h, w]``."""
        parameters = self.model.graphs["vae_encoder"].run({"sample": to_pixels(picture)[None]})["latent_parameters"]
        return parameters[:, : self.model.channels].astype(np.float32) * np.float32(self.model.about["scaling_factor"])

    def _draw(
        self,
        minus: list[tuple[Adapter | None, str]],
        wanted: list[tuple[Adapter | None, str]],
        noises: list[Noise],
        shape: tuple[int, ...],
        sampler: Scheduler,
        scale: float,
        progress: Progress | None,
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
            skipped = skipped_steps(len(sampler.timesteps), start.strength)
            if start.strength < 1:
                sample = self.model.levels.add_noise(start.clean, sample, int(sampler.timesteps[skipped]))
        for index in range(skipped, len(sampler.timesteps)):
            check_cancelled(cancel)
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
            if progress is not None:
                progress(Event("draw", index + 1 - skipped, len(sampler.timesteps) - skipped))
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
        feeds = {"input_ids": self.model.tokenizer.ids(text, self._concepts(pack))[None]}
        if pack is not None:
            feeds[ROWS] = pack.rows
        states = self.model.graphs["text_encoder"].run(feeds)["last_hidden_state"]
        if not self.model.shared:
            return {"encoder_hidden_states": states}
        weights = {} if pack is None else pack.weights
        return self.model.graphs["kv_projection"].run({"encoder_hidden_states": states, **weights})

    def _packs_for(self, prompts: list[str], packs: str | Sequence[str | None] | None) -> list[Adapter | None]:
        known = self.packs
        names = one_each(packs, len(prompts), "pack")
        for name in names:
            if name is not None and name not in known:
                there = ", ".join(known) or "none"
                raise InputError(f"there is no pack {name!r}; add_pack was called for: {there}")
        return [None if name is None else known[name] for name in names]

    def _concepts(self, pack: Adapter | None) -> list[Concept]:
        return self.model.concepts if pack is None else pack.concepts


def _named(concepts: Any, packs: Any) -> Any:
    if concepts is not None and packs is not None:
        raise InputError("concepts and packs are two names of one argument; give one")
    return concepts if packs is None else packs


def _sampler(name: str, model: ExportedModel, steps: int, eta: float) -> Callable[[], Scheduler]:
    if name not in SCHEDULERS:
        raise InputError(f"there is no scheduler {name!r}; choose one of {', '.join(SCHEDULERS)}")
    return lambda: Ddim(model.levels, steps, eta) if name == "ddim" else DpmSolver(model.levels, steps)
