"""Drawing with an exported model: no torch, no diffusers, no transformers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..images.image_io import load_image, square
from ..images.record import laid_in
from ..rules.arguments import cancelling, listed, text, texts, to_be_called
from ..rules.arguments import path as as_path
from ..rules.drawing import (
    MOST_PICTURES,
    Generation,
    call_notes,
    check_numbers,
    check_strength,
    first_seeds,
    one_text_each,
    picture_and_hole,
    sign,
    skipped_steps,
)
from ..rules.speed import check_speed
from ..runtime import Phase, Progress, check_cancelled
from .adapters import Adapter
from .drawing import Drawing, Start, concepts_of, condition, encoded
from .model import ExportedModel
from .onnx_folder import SHALLOW
from .pixels import mask_cells
from .prompts import check_minus, check_prompt, readable
from .samplers.choose import sampler
from .samplers.noise import Noise
from .samplers.plain import Ddim
from .shelf import Packs, Shelf

Picture = str | Path | Image.Image
_BATCH = 8
log = logging.getLogger("sdk")


class OnnxPersonalizer(Shelf):
    """An exported model and the packs that were added to it. One instance may be used by several threads.

    Args:
        model: the exported folder, opened.
    """

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        providers: Sequence[str] | None = None,
        *,
        engine: str = "auto",
        precision: str = "auto",
    ) -> OnnxPersonalizer:
        """Open a folder that ``export_onnx`` wrote.

        Args:
            folder: merged or shared.
            providers: ONNX Runtime's, in order of preference, such as ``["CUDAExecutionProvider"]``; default the CPU.
            engine: ``"onnxruntime"``, ``"openvino"``, the faster one on CPUs, or ``"auto"``: OpenVINO where it is
                installed and no ``providers`` are asked for.
            precision: in which OpenVINO computes the UNet: ``"fp32"``, ``"bf16"``, ``"int8"`` (of folders that were
                exported with it), or ``"auto"``: the first of int8, bf16 and fp32 that folder and processor have.
                ONNX Runtime computes what was exported.

        Raises:
            MissingFileError: no such folder, or a part is missing.
            BaseModelError: a folder of another version, or a damaged part.
            InputError: an engine, a provider or a precision that is not there.
        """
        chosen = None if providers is None else [text(p, "providers") for p in listed(providers, "providers", "names")]
        asked = text(engine, "engine"), text(precision, "precision")
        return cls(ExportedModel.load(as_path(folder, "folder"), chosen, *asked))

    def check_prompt(
        self, prompt: str, *, concepts: str | Adapter | None = None, negative_prompt: str = ""
    ) -> list[str]:
        """Check a prompt as :meth:`generate` does, and draw nothing.

        Returns:
            Notes on it, often none.

        Raises:
            InputError: an unknown pack or token, or a learned token without its class noun.
        """
        tokenizer = self.model.tokenizer
        known = concepts_of(self.model, self.packs_for(1, concepts)[0])
        notes = check_prompt(tokenizer, readable(tokenizer, text(prompt, "prompt")), known)
        notes += check_minus(tokenizer, readable(tokenizer, text(negative_prompt, "negative prompt")), known)
        return list(dict.fromkeys(notes))

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        concepts: Packs = None,
        packs: Packs = None,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        scheduler: str | None = None,
        speed: str = "exact",
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw pictures; arguments as in :meth:`sdk.Personalizer.generate`, and the same pictures for the same seed.

        Args:
            prompt: what to draw; several prompts share batches.
            concepts: the name of an added pack, or what :meth:`read_pack` returned; or one (or ``None``) a prompt.
            packs: the same by another name.
            num_images: pictures per prompt.
            seed: picture ``i`` of the call has the noise of ``seed + i``, below 2**63; or one for each prompt, whose
                pictures count on from it; ``None``: at random.
            num_inference_steps: of the sampler; ``None``: what the base model recommends, else 50.
            guidance_scale: ``None``: what the base model recommends.
            guidance_rescale: from 0 to 1; ``None``: what the base model recommends.
            eta: of DDIM, in [0, 1]; ``None``: 1.
            scheduler: ``"ddim"``, as the paper samples, ``"dpm++"`` (DPM-Solver++ 2M), ``"unipc"`` or ``"euler"``;
                ``None``: the model's own, which is DDIM unless it is distilled.
            speed: ``"exact"``, ``"balanced"`` or ``"fast"``, see :meth:`sdk.Personalizer.generate`.
            negative_prompt: what to steer away from; one for all, or one per prompt.
            height: in pixels, a multiple of the model's ``size_multiple`` up to 4096; default the model's.
            width: likewise.
            progress: called with a :class:`sdk.runtime.Event` at first and after each step, through all batches.
            cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.

        Raises:
            InputError: an unknown pack or token, wrong types, counts or sizes.
            NotFiniteError: the model computed NaN or infinite values.
        """
        return self._drawn(
            prompt,
            _named(concepts, packs),
            negative_prompt,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
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
        concepts: str | Adapter | None = None,
        packs: str | Adapter | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        scheduler: str | None = None,
        speed: str = "exact",
        negative_prompt: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Draw a picture anew, the more of it the larger ``strength`` in (0, 1]; its centre square is used.

        The other arguments are those of :meth:`generate`.
        """
        share = check_strength(strength)
        clean = encoded(self.model, square(load_image(image), self.model.resolution))
        return self._drawn(
            [prompt],
            _named(concepts, packs),
            negative_prompt,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
            start=Start(clean, share),
            progress=progress,
            cancel=cancel,
        )

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str,
        *,
        concepts: str | Adapter | None = None,
        packs: str | Adapter | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        scheduler: str | None = None,
        speed: str = "exact",
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
            guidance_rescale=guidance_rescale,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
            start=Start(encoded(self.model, picture), 1.0, cells),
            given=(picture, hole),
            progress=progress,
            cancel=cancel,
        )
        return Generation([laid_in(new, picture, hole) for new in drawn.images], drawn.notes)

    def _drawn(
        self,
        prompt: str | Sequence[str],
        named: Packs,
        negative_prompt: str | Sequence[str] | None,
        *,
        num_images: int,
        seed: int | Sequence[int] | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        guidance_rescale: float | None,
        eta: float | None,
        scheduler: str | None,
        speed: str,
        progress: Progress | None,
        cancel: threading.Event | None,
        size: tuple[int | None, int | None] = (None, None),
        start: Start | None = None,
        given: tuple[Image.Image, Image.Image] | None = None,
    ) -> Generation:
        """Check everything, then draw a batch at a time."""
        model = self.model
        prompts = [readable(model.tokenizer, p) for p in texts(prompt, "prompt", MOST_PICTURES)]
        pace, notes = check_speed(speed, model.steps)
        usual = model.steps if pace.steps is None else pace.steps
        numbers = check_numbers(
            prompts,
            model.resolution,
            model.size_multiple,
            num_images=num_images,
            seed=seed,
            num_inference_steps=usual if num_inference_steps is None else num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            height=size[0],
            width=size[1],
        )
        to_be_called(progress, "progress")
        cancelling(cancel)
        chosen = self.packs_for(len(prompts), named)
        avoided = one_text_each(negative_prompt, len(prompts), "negative prompt", "")
        negatives = [readable(model.tokenizer, negative) for negative in avoided]
        scale = float(model.about["guidance_scale"]) if numbers.guidance is None else numbers.guidance
        eta = 1.0 if numbers.eta is None else numbers.eta
        sampling = sampler(model.levels, pace.scheduler if scheduler is None else scheduler, numbers.steps, eta)
        kind = type(sampling())
        guided = scale > 1 and not model.guidance_width
        pace = pace.of(numbers.steps)
        if pace.every > 1 and not model.folder.has_shallow:
            pace = replace(pace, every=1)
            notes.append(
                f"speed={speed!r} is slower with this folder, which holds no {SHALLOW}; export the model again"
            )
        for each, negative, pack in zip(prompts, negatives, chosen, strict=True):
            concepts = concepts_of(model, pack)
            notes += check_prompt(model.tokenizer, each, concepts)
            notes += check_minus(model.tokenizer, negative, concepts) if guided else []
        unused = numbers.eta is not None and kind is not Ddim
        notes += call_notes(
            kind.__name__,
            guided=guided,
            negative=any(negatives),
            eta_unused=unused,
            distilled=model.guidance_width > 0,
        )
        notes = list(dict.fromkeys(notes))
        for note in notes:
            log.warning(note)
        check_cancelled(cancel)
        count, firsts = numbers.num_images, numbers.seeds
        if firsts is None:
            firsts = first_seeds(int(np.random.default_rng().integers(2**31)), len(prompts), count)
        rows = [(i, first + k) for i, first in enumerate(firsts) for k in range(count)]
        parts = [rows[begin : begin + _BATCH] for begin in range(0, len(rows), _BATCH)]
        steps = numbers.steps - (skipped_steps(numbers.steps, start.strength) if start is not None else 0)
        phase = Phase("draw", steps * len(parts), progress, cancel)
        shape = (model.channels, numbers.height // model.cell, numbers.width // model.cell)
        rescale = model.rescale if numbers.rescale is None else numbers.rescale
        behind = condition(model, (numbers.height, numbers.width), given) if model.paints_over else None
        drawing = Drawing(model, sampling, scale, rescale, shape, phase, start, pace, behind)
        images: list[Image.Image] = []
        for part in parts:
            minus = [(chosen[i], negatives[i]) for i, _ in part] if guided else []
            wanted = [(chosen[i], prompts[i]) for i, _ in part]
            images += drawing.batch(minus, wanted, [Noise(own) for _, own in part])
        for image, (i, seed) in zip(images, rows, strict=True):
            pack = chosen[i]
            stated = model.folder.statement if pack is None else pack.statement
            sign(
                image,
                prompts[i],
                negatives[i] if guided else "",
                seed,
                numbers=numbers,
                guidance=scale,
                rescale=rescale if guided else 0.0,
                scheduler=kind.__name__,
                base=model.base.name,
                concepts=concepts_of(model, pack),
                statement=stated,
                edited=start is not None,
                strength=None if start is None or start.hole is not None else start.strength,
                speed=pace,
            )
        return Generation(images, notes)


def _named(concepts: Any, packs: Any) -> Any:
    if concepts is not None and packs is not None:
        raise InputError("concepts and packs are two names of one argument; give one")
    return concepts if packs is None else packs
