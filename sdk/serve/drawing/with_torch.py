"""A model in torch as a painter: packs are folders, with all that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...pack import ConceptPack
from ...personalizer import Personalizer
from ...sampling.at_once import pictures_at_once
from ...unet.matrices import LowRank
from .painter import Painter


class TorchPainter(Painter):
    """Draws with a model that was loaded.

    Args:
        model: the model, whose active pack is not used.
    """

    suffix = ""

    def __init__(self, model: Personalizer) -> None:
        super().__init__(model)
        self.resolution = model.resolution
        self.most_at_once = pictures_at_once(model, (model.resolution, model.resolution), guided=True)

    @property
    def base(self) -> str:
        return str(self.model.base.name)

    def read_pack(self, path: Path) -> ConceptPack:
        pack = ConceptPack.from_pretrained(path)
        self.model.check_base(pack)
        pack.check_finite()
        return pack

    def size_of(self, pack: ConceptPack) -> int:
        arrays: list[Any] = [pack.embeddings, *pack.unet.values()]
        for pair in pack.key_value.values():
            for matrix in pair:
                arrays += [matrix.down, matrix.up] if isinstance(matrix, LowRank) else [matrix]
        return sum(array.nbytes for array in arrays)
