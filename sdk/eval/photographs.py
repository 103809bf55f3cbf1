"""Which of a pack's subjects a photograph shows, by DINO on what the base model's attention marks.

DINO's likenesses have no absolute meaning: how alike two pictures of one dog are depends on the dog. So a subject is
told by comparison. In a picture it must be more like itself in the reference than like any other subject, and more like
itself than every one of a few strangers is: things of its class that the untouched base model draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..masks.find import masks_of
from ..masks.options import MaskOptions
from ..sampling.engine import Engine
from .encoders import DinoEncoder, cut_out_on_black
from .expectations import Expected

STRANGERS = 4  # of each class, drawn once for each pack


class PhotographChecks:
    """Knows what concepts look like in a reference picture.

    Args:
        engine: the base model.
        reference: the picture.
        concepts: what it shows, of different classes.
        dino: default from the Hub or its cache.

    Raises:
        BaseModelError: DINO is neither here nor to be had.
    """

    def __init__(
        self, engine: Engine, reference: Image.Image, concepts: Sequence[Concept], dino: DinoEncoder | None = None
    ) -> None:
        self.engine, self.concepts = engine, list(concepts)
        self.dino = DinoEncoder.from_pretrained() if dino is None else dino
        self.own = self._vectors(reference, range(len(self.concepts)))
        self.nearest_stranger = torch.stack([self._nearest_stranger(i) for i in range(len(self.concepts))])

    def faults(self, images: Sequence[Image.Image], wanted: Expected) -> list[list[str]]:
        """Say which of the wanted concepts each picture lacks; a second one of its class is not looked for."""
        found = []
        for image in images:
            likeness = self._vectors(image, wanted.there) @ self.own.T  # [wanted, S]
            faults = []
            for row, index in enumerate(wanted.there):
                concept = self.concepts[index]
                if likeness[row, index] <= self.nearest_stranger[index]:
                    faults.append(f"no {concept.phrase}, or another {concept.noun}")
                elif int(likeness[row].argmax()) != index:
                    other = self.concepts[int(likeness[row].argmax())]
                    faults.append(f"the {concept.phrase} looks like the {other.phrase}")
            found.append(faults)
        return found

    def _vectors(self, image: Image.Image, indices: Sequence[int]) -> Tensor:
        """DINO's unit vectors ``[len(indices), E]`` of what attention takes for these concepts, cut out."""
        named = [self.concepts[i] for i in indices]
        masks = masks_of(self.engine, image, named, MaskOptions(), "auto")
        return self.dino.pictures([cut_out_on_black(image, mask) for mask in masks])

    def _nearest_stranger(self, index: int) -> Tensor:
        """The largest likeness of something of a concept's class to the concept, a scalar."""
        prompt = f"photo of a {self.concepts[index].noun}"
        drawn = self.engine.draw([prompt], None, num_images=STRANGERS, seed=0, speed="balanced").images
        vectors = torch.cat([self._vectors(image, [index]) for image in drawn])
        return (vectors @ self.own[index]).max()
