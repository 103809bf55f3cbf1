"""What a fit leaves beside its pack, once the pack is on disk: maps, masks and samples to look at."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...concepts import Concept
from ...disk.file_names import mask_name
from ...disk.files import write_bytes
from ...images.contact_sheet import attention_sheet, labelled_grid, mask_sheet
from ...images.image_io import png
from ...masks.crops import drawn_mask
from ...pack import ConceptPack
from ...runtime import Phase, Progress
from ...sampling.engine import Engine
from ..prepare import PreparedFit

_SAMPLE_STEPS = 25


def write_artifacts(
    engine: Engine,
    fit: PreparedFit,
    pack: ConceptPack,
    folder: Path,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Write ``attention.png``, a mask of each concept, ``masks.png`` and ``samples.png`` into the pack's folder.

    Args:
        engine: the base model.
        fit: what was learned, and from what.
        pack: the same as a pack.
        folder: the pack's.
        progress: told about them, phase ``"sheets"``.
        cancel: looked at between them and while samples are drawn.
    """
    image, concepts = fit.request.images[0], fit.request.concepts
    phase = Phase("sheets", 3, progress, cancel)
    write_bytes(folder / "attention.png", png(attention_of(fit)))
    phase.step()
    masks = concept_pictures(concepts, fit.method.masks[0], image.size)
    for index, mask in enumerate(masks):
        write_bytes(folder / mask_name(index), png(mask))
    write_bytes(folder / "masks.png", png(mask_sheet(image, concepts, masks)))
    phase.step()
    write_bytes(folder / "samples.png", png(samples(engine, pack, progress, cancel)))
    phase.step()


def attention_of(fit: PreparedFit) -> Image.Image:
    """Return a sheet of where the concepts' words look on the first picture, before the fit and now."""
    return attention_sheet(fit.request.images[0], fit.request.concepts, fit.before, maps_of(fit))


def maps_of(fit: PreparedFit) -> Tensor:
    """Return where the concepts' words look on the first picture now, ``[2S, h, w]``: modifier, class word, ..."""
    return fit.method.probe.reference_maps(fit.clean[0], fit.method.embeddings)


def concept_pictures(concepts: list[Concept], masks: Tensor, size: tuple[int, int]) -> list[Image.Image]:
    """Return each concept's mask ``[S + 1, r, r]`` as a picture, white on black."""
    return [drawn_mask(mask, size).convert("L") for mask in masks[: len(concepts)]]


def samples(
    engine: Engine, pack: ConceptPack, progress: Progress | None = None, cancel: threading.Event | None = None
) -> Image.Image:
    """Draw a small sheet: each concept alone, and all together."""
    prompts = [f"photo of a {c.phrase}" for c in pack.concepts]
    if len(prompts) > 1:
        prompts.append(pack.prompt)
    columns = 4
    told: dict[str, Any] = {"progress": progress, "cancel": cancel}
    images = engine.draw(
        prompts, pack, num_images=columns, seed=0, num_inference_steps=engine.steps_for(_SAMPLE_STEPS), **told
    ).images
    return labelled_grid([images[i * columns : (i + 1) * columns] for i in range(len(prompts))], prompts)
