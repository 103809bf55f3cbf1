"""The calls that draw, as users make them; :class:`sdk.Personalizer` has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import InputError
from ..images.image_io import load_image, square
from ..images.record import laid_in
from ..pack import ConceptPack
from ..rules.drawing import Generation, check_strength, picture_and_hole
from ..runtime import Progress
from .attempts import Checker, checked_attempts
from .engine import Engine
from .from_picture import Start, start_from

Picture = str | Path | Image.Image


class Drawer(Engine):
    """A base model that draws with the pack that is active, where a call names none.

    Attributes:
        pack: the active pack, if any.
    """

    pack: ConceptPack | None = None

    def default_checker(self) -> Checker:
        """Return who looks at pictures where a call names nobody."""
        raise InputError("nobody here can look at pictures: give checker, or draw with attempts=1")

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        concepts: ConceptPack | Sequence[ConceptPack | None] | None = None,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        eta: float | None = None,
        scheduler: Any = None,
        speed: str = "exact",
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        attempts: int = 1,
        checker: Checker | None = None,
        separate: float = 0.0,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Draw pictures.

        Args:
            prompt: what to draw; several prompts are drawn in one batch. At most 10,000 pictures a call.
            concepts: the pack to use; a list gives each prompt its own (``None`` in it: the plain base model).
                ``None`` takes the active pack, if any.
            num_images: pictures per prompt.
            seed: picture ``i`` has the noise of ``seed + i``, below 2**63, whatever else is drawn; or one for each
                prompt, whose pictures count on from it; ``None``: at random.
            num_inference_steps: of the sampler; ``None``: what the base model recommends, else 50 (paper).
            guidance_scale: classifier-free guidance; ``None``: what the base model recommends, else 6 (paper).
            guidance_rescale: from 0 to 1, how far the guided prediction gets back the contrast of the plain one (Lin et
                al., WACV 2024, section 3.4); ``None``: 0.7 for models whose last noise level is noise alone, else 0.
            clip_skip: last layers of the text encoders that are left out, beyond what the family leaves out; ``None``:
                as the pack was fitted.
            eta: share of fresh noise in each DDIM step, in [0, 1]; ``None``: 1 (released code).
            scheduler: ``"ddim"``, as the paper samples, ``"dpm++"`` (DPM-Solver++ 2M), ``"unipc"`` or ``"euler"``, on
                the model's own noise levels; or one of diffusers' schedulers. ``None``: one that was set as
                ``pipe.scheduler``, else the model's own, which is DDIM unless it is distilled.
            speed: ``"exact"``; ``"balanced"``: DPM-Solver++ in 20 steps; ``"fast"``: the same, with two of three steps
                computed from the deep features of the one before, and without guidance at the last, low noise levels.
                ``scheduler`` and ``num_inference_steps`` overrule it; distilled models draw as they do.
            negative_prompt: what to steer away from; one for all, or one per prompt.
            height: of the pictures in pixels, a multiple of :attr:`size_multiple` up to 4096; default the model's.
            width: likewise.
            generator: used instead of ``seed``: one, from which each picture takes a seed, or one per picture.
            attempts: drawings of a picture at most: each is looked at, and one that lacks a subject of the prompt,
                doubles it or shows another in its place is drawn again with other noise. What each took and what is
                still wrong comes back. Do not measure with the checker that chose.
            checker: who looks; ``None``: a scorer that knows the subjects, such as the bundled world's judge, else
                DINO on what attention marks in the picture (:class:`sdk.eval.PackChecker`). With ``attempts=1``,
                pictures are looked at where a checker is given.
            separate: share of the steps, at the start, in which the subjects that a prompt names are driven apart; in
                the rest each keeps to the place that it found (LODA with masks fixed after it, ConceptSplit, ICCV 2025,
                and bounded self-attention). For two subjects of one class, or where one is left out; such a step costs
                about three. 0: not at all.
            progress: called with a :class:`sdk.runtime.Event` at first and after each step, through all batches.
            cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next step.
            callback_on_step_end: as in diffusers, called with the step of the whole call.

        Raises:
            InputError: an empty prompt, a token that was not learned or lacks its noun, wrong types, counts or sizes.
            BaseModelError: a pack of another base model.
            NotFiniteError: the model computed NaN or infinite values.
        """
        return self.draw(
            prompt,
            self.pack if concepts is None else concepts,
            num_images=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            generator=generator,
            attempts=checked_attempts(attempts, checker, generator, self.default_checker),
            separate=separate,
            progress=progress,
            cancel=cancel,
            callback_on_step_end=callback_on_step_end,
        )

    def check_prompt(self, prompt: str, *, concepts: ConceptPack | None = None, negative_prompt: str = "") -> list[str]:
        """Check a prompt as :meth:`generate` does, and draw nothing.

        Args:
            prompt: what would be drawn.
            concepts: the pack to use; ``None`` takes the active pack, if any.
            negative_prompt: what would be steered away from.

        Returns:
            Notes on it, often none.

        Raises:
            InputError: an empty prompt, a token that was not learned or lacks its noun.
            BaseModelError: a pack of another base model.
        """
        return self.check(prompt, self.pack if concepts is None else concepts, negative_prompt)

    def img2img(
        self,
        image: Picture,
        prompt: str,
        *,
        strength: float = 0.6,
        concepts: ConceptPack | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        eta: float | None = None,
        scheduler: Any = None,
        speed: str = "exact",
        negative_prompt: str | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Draw a picture anew; its centre square is used, at the model's resolution.

        Args:
            image: the picture.
            prompt: see :meth:`generate`, likewise the other arguments.
            strength: share of the sampling steps that are done, in (0, 1]: the larger, the less of the picture stays.

        Raises:
            InputError: another strength; see also :meth:`generate`.
        """
        share = check_strength(strength)
        return self._drawn_from(
            start_from(self, square(load_image(image), self.resolution), strength=share),
            prompt,
            num_images=num_images,
            seed=seed,
            concepts=concepts,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
            negative_prompt=negative_prompt,
            generator=generator,
            progress=progress,
            cancel=cancel,
            callback_on_step_end=callback_on_step_end,
        )

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str,
        *,
        concepts: ConceptPack | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        eta: float | None = None,
        scheduler: Any = None,
        speed: str = "exact",
        negative_prompt: str | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Redraw the white part of ``mask`` in ``image`` as the prompt says; the rest keeps its pixels.

        The centre square is used, at the model's resolution. The kept part is put back after each step at its noise
        level (blended diffusion), so any text-to-image base model works; an inpainting model is told both instead.

        Args:
            image: the picture.
            mask: white where it is redrawn, of the picture's size.
            prompt: see :meth:`generate`, likewise the other arguments.

        Raises:
            InputError: an empty mask or one of another size; see also :meth:`generate`.
        """
        picture, hole = picture_and_hole(image, mask, self.resolution)
        drawn = self._drawn_from(
            start_from(self, picture, hole),
            prompt,
            num_images=num_images,
            seed=seed,
            concepts=concepts,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            eta=eta,
            scheduler=scheduler,
            speed=speed,
            negative_prompt=negative_prompt,
            generator=generator,
            progress=progress,
            cancel=cancel,
            callback_on_step_end=callback_on_step_end,
        )
        return Generation([laid_in(new, picture, hole) for new in drawn.images], drawn.notes)

    def _drawn_from(self, start: Start, prompt: str, *, concepts: ConceptPack | None, **arguments: Any) -> Generation:
        return self.draw([prompt], self.pack if concepts is None else concepts, start=start, **arguments)
