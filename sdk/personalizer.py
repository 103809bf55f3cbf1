"""The main entry point: fit concepts, draw pictures with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from .concepts import Concept, resolve_concepts
from .config import FitConfig
from .eval import PackChecker
from .exports.onnx_export import export_model
from .fit.defaults import recommended_config
from .fit.fit import fit_concepts
from .fit.reporting import StepReport
from .images.image_io import load_image, load_images, load_mask
from .masks.find import masks_of
from .memory.budget import checked_memory
from .model.base_model import usable_device, usable_dtype
from .model.loading import load_pipeline
from .pack import ConceptPack
from .rights import stated_rights
from .rules.arguments import cancelling, flag, listed, optional, path, text, to_be_called
from .rules.drawing import check_seed
from .runtime import Progress
from .sampling.calls import Drawer, Picture
from .sampling.loras import load_lora, unload_loras
from .turns import beside_others


class Personalizer(Drawer):
    """A base model, and what it was taught; build one with :meth:`from_pretrained`.

    The base model itself is never changed: packs act only during a call, on a
    view of the model that the call alone has (:mod:`sdk.views`), and nothing is left of a call that fails.

    Several threads may use one object at once and get what each would get alone. They share :attr:`pack`, which a call
    looks at once, as it begins. What is changed of :attr:`pipe` (a scheduler, processors, its device) counts from the
    next call on; LoRAs may be loaded and removed while others draw, everything else is changed while nobody does. Of
    modules that are compiled or offloaded by accelerate there is no view: there drawings and steps of fits take turns.
    :meth:`export_onnx` waits until nothing else runs, and others until it has ended: torch's exporter wants it so.

    Attributes:
        pack: the active pack, used where a call names none.
    """

    def __init__(self, pipe: StableDiffusionPipeline, name: str | Path = "custom"):
        super().__init__(pipe, name)
        self.pack: ConceptPack | None = None
        self._checker: PackChecker | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "bundled",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        memory: float | str = "auto",
        **options: Any,
    ) -> Personalizer:
        """Load a base model.

        Args:
            model: ``"bundled"``, a Stable Diffusion folder, a single checkpoint file or a Hub id.
            device: where to run; ``None`` takes CUDA, then Apple's MPS, then the CPU.
            dtype: of the frozen weights; ``None`` takes float16 on CUDA and float32 elsewhere.
            memory: what the model and all that is done with it may take, in GB; ``"auto"``: what is free. By it are
                chosen the rows of a step that go through the UNet at once, whether activations are kept, how many
                pictures are drawn at once, and whether they are decoded in tiles. :attr:`memory` changes it later.
            **options: passed on to diffusers (``revision``, ``variant``, ``local_files_only``, ...).

        Raises:
            InputError: a model, device or dtype of another kind, or a device that is not here.
            MissingFileError, BaseModelError: a path that does not exist, or no Stable Diffusion model.
        """
        path(model, "model")
        budget = checked_memory(memory)
        chosen = usable_device(device)
        loaded = cls(load_pipeline(model, dtype=usable_dtype(dtype, chosen), **options).to(chosen), model)
        loaded.memory = budget
        return loaded

    def default_config(self, preset: str = "best", method: str = "disendiff", **changes: Any) -> FitConfig:
        """Return a method's preset with the settings that come with this base model, and further changes.

        Raises:
            InputError: an unknown preset, method or setting.
        """
        return recommended_config(self, preset, method, **changes)

    def fit(
        self,
        image: Picture | Sequence[Picture],
        concepts: Sequence[str | Concept],
        *,
        method: str = "disendiff",
        config: FitConfig | None = None,
        seed: int = 0,
        masks: Sequence[Picture] | None = None,
        output_dir: str | Path | None = None,
        resume: bool = False,
        callback: Callable[[StepReport], Any] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        report_to: str | None = None,
        licence: str | None = None,
        consent: str | None = None,
    ) -> ConceptPack:
        """Learn each concept of one picture as its own token.

        Args:
            image: the reference picture: a path or a picture (the centre square is used); a list of them also works.
            concepts: class nouns in any order, such as ``["cat", "dog"]``, or :class:`Concept` objects.
            method: name of the method.
            config: settings; ``None`` takes :meth:`default_config`.
            seed: of everything random.
            masks: white where a concept is, one per concept, picture by picture; default :meth:`find_masks`.
            output_dir: folder to write the pack to, with its attention maps, masks, samples and metrics.
            resume: go on from the checkpoint that an interrupted fit to ``output_dir`` left.
            callback: called after each step with a :class:`sdk.fit.reporting.StepReport`.
            progress: called with a :class:`sdk.runtime.Event` as each phase begins and after each of its steps.
            cancel: once set, :class:`sdk.runtime.Cancelled` is raised before the next step; ``resume`` goes on there.
            report_to: ``"tensorboard"`` to log the losses there, in ``{output_dir}.tensorboard``.
            licence: of the pack, such as ``"CC-BY-4.0"``; goes along into merged packs, exports and pictures.
            consent: a line about the consent of whoever is shown; into merged packs and exports.

        Returns:
            The pack, which is also made active for :meth:`generate`; of two fits at once, the one that ends last.

        Raises:
            SdkError: bad input, or a fit that diverged; the message says what to do.
        """
        with beside_others():
            pack = fit_concepts(
                self,
                load_images(image, "reference picture"),
                concepts,
                method=text(method, "method"),
                config=self.default_config(method=method) if config is None else config,
                seed=check_seed(seed),
                masks=None if masks is None else [load_mask(m) for m in listed(masks, "masks", "pictures")],
                output_dir=None if output_dir is None else path(output_dir, "output_dir"),
                resume=flag(resume, "resume"),
                callback=to_be_called(callback, "callback"),
                progress=to_be_called(progress, "progress"),
                cancel=cancelling(cancel),
                report_to=report_to,
                rights=stated_rights(licence, consent),
            )
        self.pack = pack
        return pack

    def default_checker(self) -> PackChecker:
        """Return who looks at pictures where a call with ``attempts`` names nobody; it is made once."""
        if self._checker is None:
            self._checker = PackChecker(self)
        return self._checker

    def find_masks(
        self,
        image: Picture,
        concepts: Sequence[str | Concept],
        *,
        config: FitConfig | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Image.Image]:
        """Return where each concept is, white on black, by the base model's attention; may be edited and given to fit.

        Args:
            image: the reference picture.
            concepts: class nouns, or :class:`Concept` objects.
            config: its ``masks`` and ``precision`` say how; default :meth:`default_config`.
            progress: see :meth:`fit`; without clear masks the phase begins again.
            cancel: likewise.

        Returns:
            One picture of mode ``L`` per concept. ``info["confidence"]`` says from 0 to 1 how sure attention is, see
            :meth:`sdk.masks.AttentionProbe.confidence`; what it is not sure of is named in the log.
        """
        config = optional(config, FitConfig, "config") or self.default_config()
        return masks_of(
            self,
            load_image(image),
            resolve_concepts(concepts),
            config.masks,
            config.precision,
            clip_skip=config.clip_skip,
            progress=to_be_called(progress, "progress"),
            cancel=cancelling(cancel),
        )

    def load_pack(self, pack: ConceptPack | str | Path) -> ConceptPack:
        """Make a pack, or the pack in a folder, active for :meth:`generate`; a damaged or foreign one is refused."""
        if not isinstance(pack, ConceptPack):
            pack = ConceptPack.from_pretrained(path(pack, "pack"))
        self.check_base(pack)
        pack.check_finite()
        self.pack = pack
        return pack

    def unload_pack(self) -> None:
        """Go back to the plain base model."""
        self.pack = None

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Add a LoRA; arguments as in diffusers. It stays beside the packs, also where both touch K and V.

        One that is unreadable, of another model or not finite is refused, and nothing of it stays.
        """
        load_lora(self, *args, **kwargs)

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs, from the next call on."""
        unload_loras(self)

    def export_onnx(
        self,
        folder: str | Path,
        *,
        concepts: ConceptPack | None = None,
        shared: bool = False,
        dtype: torch.dtype | None = None,
        int8: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> dict[str, float]:
        """Write the model for ONNX Runtime and OpenVINO, every part compared with PyTorch.

        Args:
            folder: where to write, in the layout of ONNX pipelines.
            concepts: a pack to merge in; default none.
            shared: write the base once, for packs that :meth:`ConceptPack.export_adapter` writes.
            dtype: ``torch.float32`` (default) or ``torch.float16``.
            int8: write the UNet quantised, too, for OpenVINO; refused where its pictures would be worse.
            progress: see :meth:`fit`; a step is a part.
            cancel: likewise.

        Returns:
            The largest difference from PyTorch, relative to the largest value, by part.

        Raises:
            InputError, OutputError: a pack and ``shared``, missing packages, a part that computes something else, ...
        """
        return export_model(
            self,
            path(folder, "folder"),
            optional(concepts, ConceptPack, "concepts"),
            shared=flag(shared, "shared"),
            dtype=usable_dtype(dtype, torch.device("cpu")),
            int8=flag(int8, "int8"),
            progress=to_be_called(progress, "progress"),
            cancel=cancelling(cancel),
        )
