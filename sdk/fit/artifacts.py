"""What a fit leaves beside its pack, once the pack is on disk: maps, masks and samples to look at."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..files import write_bytes
from ..images.contact_sheet import attention_sheet, labelled_grid, mask_sheet
from ..images.image_io import png
from ..masks.crops import drawn_mask
from ..pack import ConceptPack
from ..sampling.engine import Engine
from .prepare import PreparedFit

_SAMPLE_STEPS = 25


def write_artifacts(engine: Engine, fit: PreparedFit, pack: ConceptPack, folder: Path) -> None:
    """Write ``attention.png``, a mask of each concept, ``masks.png`` and ``samples.png`` into the pack's folder."""
    image, concepts, method = fit.request.images[0], fit.request.concepts, fit.method
    after = method.probe.reference_maps(fit.clean[0], method.embeddings)
    masks = concept_pictures(concepts, method.masks[0], image.size)
    sheets = {"attention.png": attention_sheet(image, concepts, fit.before, after)}
    sheets |= {f"mask-{c.token.strip('<>')}.png": mask for c, mask in zip(concepts, masks, strict=True)}
    sheets["masks.png"] = mask_sheet(image, concepts, masks)
    sheets["samples.png"] = samples(engine, pack)
    for name, sheet in sheets.items():
        write_bytes(folder / name, png(sheet))


def concept_pictures(concepts: list[Concept], masks: Tensor, size: tuple[int, int]) -> list[Image.Image]:
    """Return each concept's mask ``[S + 1, r, r]`` as a picture, white on black."""
    return [drawn_mask(mask, size).convert("L") for mask in masks[: len(concepts)]]


def samples(engine: Engine, pack: ConceptPack) -> Image.Image:
    """Draw a small sheet: each concept alone, and all together."""
    prompts = [f"photo of a {c.phrase}" for c in pack.concepts]
    if len(prompts) > 1:
        prompts.append(pack.prompt)
    columns = 4
    images = engine.draw(prompts, pack, num_images=columns, seed=0, num_inference_steps=_SAMPLE_STEPS).images
    return labelled_grid([images[i * columns : (i + 1) * columns] for i in range(len(prompts))], prompts)
