"""An exported folder as a painter: no torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...deploy import OnnxPersonalizer
from ...deploy.adapters import Adapter
from ...errors import InputError
from ...runtime import Progress
from .painter import How, Painter, Row


class ExportedPainter(Painter):
    """Draws with an exported folder that takes packs.

    Args:
        folder: a shared export.
        engine: see :meth:`sdk.deploy.OnnxPersonalizer.from_pretrained`.
        precision: likewise.

    Raises:
        SdkError: no such folder, a damaged one, or one with its pack merged in.
    """

    suffix = ".onnx_adapter"
    most_at_once = 8

    def __init__(self, folder: str | Path, engine: str = "auto", precision: str = "auto") -> None:
        super().__init__(OnnxPersonalizer.from_pretrained(folder, engine=engine, precision=precision))
        exported = self.model.model
        if not exported.shared:
            raise InputError(f"{folder} has its pack merged in; export the base model with --shared to serve packs")
        self.resolution = exported.resolution
        self._fixed_sizes = exported.engine.name == "openvino"

    @property
    def base(self) -> str:
        return str(self.model.model.base.name)

    def read_pack(self, path: Path) -> Adapter:
        return self.model.read_pack(path)

    def size_of(self, pack: Adapter) -> int:
        return sum(array.nbytes for array in (pack.rows, *pack.weights.values()))

    def draw(
        self, rows: Sequence[Row], how: How, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> list[Image.Image]:
        """Draw; for an engine that compiles for each number of rows, of a power of two, the last ones for nobody."""
        wanted = len(rows)
        if self._fixed_sizes:
            rows = [*rows, *[rows[-1]] * ((1 << (wanted - 1).bit_length()) - wanted)]
        return super().draw(rows, how, progress, cancel)[:wanted]
