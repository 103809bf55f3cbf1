"""The main entry point: fit concepts, draw pictures with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from .base import identify, load_pipeline, recommended_settings, sampling_scheduler
from .concepts import Concept, resolve_concepts
from .config import FitConfig
from .errors import BaseModelError, InputError
from .images import load_image, square
from .methods import check_method
from .pack import ConceptPack
from .presets import merged
from .requests import Request, packs_for, requests_for
from .sampling import Repaint, Sampler, prepare_repaint

log = logging.getLogger("sdk")
_BATCH = 16  # pictures drawn at a time


@dataclass(frozen=True)
class Generation:
    """What :meth:`Personalizer.generate` returns.

    Attributes:
        images: RGB pictures, all of the first prompt, then all of the second, ...
        notes: remarks about the prompts that are worth reading, often none.
    """

    images: list[Image.Image]
    notes: list[str]


class Personalizer:
    """A base model, and what it was taught.

    Build one with :meth:`from_pretrained`. The base model itself is never changed: packs act only during a call.
    """

    def __init__(self, pipe: StableDiffusionPipeline, name: str | Path = "custom"):
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        self.pipe = pipe
        self.base = identify(pipe, name)
        self.pack: ConceptPack | None = None
        self._sampler = Sampler(pipe, sampling_scheduler(pipe))
        self._defaults = recommended_settings(name)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "bundled",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Personalizer:
        """Load a base model.

        Args:
            model: ``"bundled"``, a Stable Diffusion folder, a single checkpoint file or a Hub id.
            device: where to run; ``None`` takes CUDA, then Apple's MPS, then the CPU.
            dtype: of the frozen weights; ``None`` takes float16 on CUDA and float32 elsewhere.
            **options: passed on to diffusers (``revision``, ``variant``, ``local_files_only``, ...).

        Raises:
            MissingFileError: a path that does not exist.
            BaseModelError: something that is no Stable Diffusion model.
        """
        chosen = torch.device(device) if device is not None else best_device()
        dtype = dtype or (torch.float16 if chosen.type == "cuda" else torch.float32)
        return cls(load_pipeline(model, dtype=dtype, **options).to(chosen), model)

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    def default_config(self, preset: str = "best", method: str = "disendiff", **changes: Any) -> FitConfig:
        """Return a method's preset with the settings that come with this base model, and further changes."""
        check_method(method)
        settings = self._defaults.get("fit", {})
        for own in (method, f"{method} {preset}"):
            settings = merged(settings, self._defaults.get("methods", {}).get(own, {}))
        return FitConfig.preset(preset, method, **merged(settings, changes))

    def fit(
        self,
        image: str | Path | Image.Image | Sequence[str | Path | Image.Image],
        concepts: Sequence[str | Concept],
        *,
        method: str = "disendiff",
        config: FitConfig | None = None,
        seed: int = 0,
        masks: Sequence[str | Path | Image.Image] | None = None,
        output_dir: str | Path | None = None,
        resume: bool = False,
        callback: Callable | None = None,
        report_to: str | None = None,
    ) -> ConceptPack:
        """Learn each concept of one picture as its own token.

        Args:
            image: the reference picture: a path or a picture (the centre square is used); a list of them also works.
            concepts: class nouns in any order, such as ``["cat", "dog"]``, or :class:`Concept` objects.
            method: name of the method.
            config: settings; ``None`` takes :meth:`default_config`.
            seed: of everything random; the same seed gives the same pack on the same machine.
            masks: where each concept is, white on black, of the size of the picture or its centre square; one per
                concept, picture by picture. Default: :meth:`find_masks`.
            output_dir: folder to write the pack to, with its attention maps, masks, samples and metrics.
            resume: go on from the checkpoint that an interrupted fit to ``output_dir`` left.
            callback: called after each step with a :class:`sdk.training.StepReport`.
            report_to: ``"tensorboard"`` to log the losses there, in ``output_dir``.

        Returns:
            The pack, which is also made active for :meth:`generate`.

        Raises:
            SdkError: bad input; the message says what to do.
        """
        from .fitting import fit_concepts

        pictures = [image] if isinstance(image, (str, Path, Image.Image)) else list(image)
        if not pictures:
            raise InputError("give at least one reference picture")
        pack = fit_concepts(
            self,
            [load_image(p) for p in pictures],
            concepts,
            method=method,
            config=config or self.default_config(method=method),
            seed=seed,
            masks=[load_image(m) for m in masks] if masks is not None else None,
            output_dir=Path(output_dir) if output_dir is not None else None,
            resume=resume,
            callback=callback,
            report_to=report_to,
        )
        self.pack = pack
        return pack

    def find_masks(
        self, image: str | Path | Image.Image, concepts: Sequence[str | Concept], *, config: FitConfig | None = None
    ) -> list[Image.Image]:
        """Return where each concept is, white on black, by the base model's attention; may be edited and given to fit.

        Args:
            image: the reference picture.
            concepts: class nouns, or :class:`Concept` objects.
            config: its ``masks`` say how; default :meth:`default_config`.
        """
        from .masking import masks_of

        resolved = resolve_concepts(concepts)
        return masks_of(self, load_image(image), resolved, config or self.default_config())

    def load_pack(self, pack: ConceptPack | str | Path) -> ConceptPack:
        """Make a pack, or the pack in a folder, active for :meth:`generate`."""
        if not isinstance(pack, ConceptPack):
            pack = ConceptPack.from_pretrained(pack)
        self.check_base(pack)
        self.pack = pack
        return pack

    def unload_pack(self) -> None:
        """Go back to the plain base model."""
        self.pack = None

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Add a LoRA; arguments as in diffusers. It stays beside the packs, also where both touch K and V."""
        self.pipe.load_lora_weights(*args, **kwargs)

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs."""
        self.pipe.unload_lora_weights()

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        num_images: int = 1,
        seed: int | None = None,
        concepts: ConceptPack | Sequence[ConceptPack | None] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Draw pictures.

        Args:
            prompt: what to draw; several prompts are drawn in one batch.
            num_images: pictures per prompt.
            seed: picture ``i`` of the call has the noise of ``seed + i``, whatever else is drawn; ``None``: at random.
            concepts: the pack to use; a list gives each prompt its own (``None`` in it: the plain base model).
                ``None`` takes the active pack, if any.
            num_inference_steps: DDIM steps (paper: 50).
            guidance_scale: classifier-free guidance; ``None``: what the base model recommends, else 6 (paper).
            eta: share of fresh noise in each DDIM step (released code: 1).
            negative_prompt: what to steer away from; one for all, or one per prompt.
            height: of the pictures in pixels; default the model's.
            width: likewise.
            generator: used instead of ``seed``: one, from which each picture takes a seed, or one per picture.
            callback_on_step_end: as in diffusers.

        Raises:
            InputError: an empty prompt, a token that was not learned or lacks its class noun, wrong counts or sizes.
            BaseModelError: a pack of another base model.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        packs, notes = self._packs(prompts, concepts)
        requests = requests_for(prompts, packs, num_images, seed, negative_prompt, generator)
        self._check_size(height, width)
        self._check_steps(num_inference_steps)
        images = self._draw(
            requests,
            generators=generator if isinstance(generator, list) else None,
            num_inference_steps=num_inference_steps,
            guidance_scale=self._guidance(guidance_scale),
            eta=eta,
            height=height,
            width=width,
            callback_on_step_end=callback_on_step_end,
        )
        return Generation(images, notes)

    def inpaint(
        self,
        image: str | Path | Image.Image,
        mask: str | Path | Image.Image,
        prompt: str,
        *,
        num_images: int = 1,
        seed: int | None = None,
        concepts: ConceptPack | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        eta: float = 1.0,
        negative_prompt: str | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Redraw the white part of ``mask`` in ``image`` as the prompt says; the rest keeps its pixels.

        The picture's centre square is used, at the model's resolution. After each step the kept part is put back
        at that step's noise level (blended diffusion), so any text-to-image base model works.

        Args:
            image: the picture.
            mask: white where it is redrawn, of the picture's size.
            prompt: see :meth:`generate`, likewise the other arguments.

        Raises:
            InputError: an empty mask or one of another size; see also :meth:`generate`.
        """
        picture, hole = load_image(image), load_image(mask).convert("L")
        if picture.size != hole.size:
            raise InputError(f"the mask must have the picture's size {picture.size}, got {hole.size}; resize it")
        side = self.base.resolution
        picture = square(picture, side)
        hole = square(hole, side).point(lambda level: 255 if level >= 128 else 0)
        if hole.getbbox() is None:
            raise InputError("the mask is black everywhere; paint white what is to be redrawn")
        self._check_steps(num_inference_steps)
        packs, notes = self._packs([prompt], concepts)
        requests = requests_for([prompt], packs, num_images, seed, negative_prompt)
        repaint: Repaint = prepare_repaint(self.pipe, picture, hole)
        images = self._draw(
            requests,
            num_inference_steps=num_inference_steps,
            guidance_scale=self._guidance(guidance_scale),
            eta=eta,
            height=side,
            width=side,
            callback_on_step_end=callback_on_step_end,
            repaint=repaint,
        )
        return Generation([Image.composite(new, picture, hole) for new in images], notes)

    def export_onnx(
        self,
        folder: str | Path,
        *,
        concepts: ConceptPack | None = None,
        shared: bool = False,
        dtype: torch.dtype | None = None,
    ) -> dict[str, float]:
        """Write the model for ONNX Runtime, every part compared with PyTorch.

        Args:
            folder: where to write, in the layout of ONNX pipelines.
            concepts: a pack to merge in; default none.
            shared: write the base once, for packs that :meth:`ConceptPack.export_adapter` writes.
            dtype: ``torch.float32`` (default) or ``torch.float16``.

        Returns:
            The largest difference from PyTorch, relative to the largest value, by part.

        Raises:
            InputError: both a pack and ``shared``, another dtype, or packages that are missing.
            OutputError: a part that computes something else, or a folder that holds other files.
        """
        from .exports.onnx import export_onnx

        return export_onnx(self, folder, concepts, shared=shared, dtype=dtype)

    @property
    def recommended_guidance(self) -> float:
        """The guidance scale that the base model recommends, else 6 (paper)."""
        return float(self._defaults.get("generate", {}).get("guidance_scale", 6.0))

    def _guidance(self, asked: float | None) -> float:
        return self.recommended_guidance if asked is None else asked

    def _draw(
        self, requests: list[Request], *, generators: list[torch.Generator] | None = None, **arguments: Any
    ) -> list[Image.Image]:
        """Draw all requests, a batch at a time; a pack with UNet weights of its own has batches to itself."""
        apart: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            apart.setdefault(id(request.pack) if request.pack is not None and request.pack.unet else 0, []).append(
                index
            )
        images: dict[int, Image.Image] = {}
        for indices in apart.values():
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH]
                own = [generators[i] for i in part] if generators is not None else None
                drawn = self._sampler.draw([requests[i] for i in part], generators=own, **arguments)
                images.update(zip(part, drawn, strict=True))
        return [images[index] for index in range(len(requests))]

    def _packs(
        self, prompts: list[str], concepts: ConceptPack | Sequence[ConceptPack | None] | None
    ) -> tuple[list[ConceptPack | None], list[str]]:
        """Return each prompt's pack, and remarks about the prompts."""
        packs = packs_for(prompts, self.pack if concepts is None else concepts)
        notes = []
        for text, pack in zip(prompts, packs, strict=True):
            if pack is not None:
                self.check_base(pack)
            note = self._sampler.check_prompt(text, pack)
            if note is not None:
                log.warning(note)
                notes.append(note)
        return packs, notes

    def check_base(self, pack: ConceptPack) -> None:
        """Raise :class:`BaseModelError` if a pack belongs to another base model."""
        difference = self.base.difference(pack.base)
        if difference is not None:
            raise BaseModelError(
                f"the pack was made for the base model {pack.base.name!r}, not for {self.base.name!r}: {difference}; "
                "load that model, or fit the picture again on this one"
            )

    def _check_size(self, height: int | None, width: int | None) -> None:
        step = self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)
        for name, value in (("height", height), ("width", width)):
            if value is not None and (value < step or value % step):
                raise InputError(f"{name} must be a positive multiple of {step}, got {value}")

    @staticmethod
    def _check_steps(steps: int) -> None:
        if not 1 <= steps < 1000:  # of 1000 levels; the sampler starts one further on
            raise InputError(f"num_inference_steps must lie between 1 and 999, got {steps}")


def best_device() -> torch.device:
    """Return CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
