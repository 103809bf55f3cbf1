"""What draws many pictures: a base model and the packs that were used last."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, OutputError, SdkError
from ...fit.whole import whole_identity
from ...images.record import png_bytes
from ...library import KeptPack
from ...pack.layout import file_limit
from ...printable import printable
from ...rules.drawing import check_numbers
from ...serve.drawing.pack_cache import PackCache
from ...serve.drawing.painter import How, Painter, Row
from ...serve.drawing.with_torch import TorchPainter
from ..storage import Storage, fetch_folder, is_address
from ..tasks import Loading
from ..worker import loaded
from .drawing import PICTURES, Drawing, Drawn, outcome, pack_mark


class Brush:
    """Draws rows and writes their pictures.

    Args:
        loading: how the base model is loaded.
        storage: the output.
        how: all rows are drawn.
        packs: bytes of packs that are held in memory.
        threads: of torch; ``None``: as it is.
        share: of the free memory, where it is this package that decides.

    Attributes:
        base: what ids of pictures depend on.
        most: rows that are worth drawing at once.
    """

    def __init__(
        self, loading: Loading, storage: Storage, how: How, packs: int, threads: int | None, share: float = 1.0
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        personalizer = loaded(loading, share)
        self.base = whole_identity(personalizer) | {"device": personalizer.device.type}
        self.storage, self.how = storage, how
        self.painter = TorchPainter(personalizer)
        self.most = self.painter.most_at_once
        check_numbers(  # once for all rows
            [""],
            personalizer.resolution,
            personalizer.size_multiple,
            num_images=1,
            seed=0,
            num_inference_steps=1 if how.steps is None else how.steps,
            guidance_scale=how.guidance_scale,
            guidance_rescale=None,
            eta=None,
            height=how.height,
            width=how.width,
        )
        self.packs = PackCache(_Fetching(self.painter), packs)

    def draw(self, rows: Sequence[tuple[Drawing, str, str]]) -> list[Drawn]:
        """Draw rows that are not drawn yet, and write them; return what came of each.

        Args:
            rows: each with the mark of its pack and its id.
        """
        ends: dict[int, Drawn] = {}
        wanted: list[tuple[int, Row]] = []
        for place, (row, mark, id) in enumerate(rows):
            try:
                if self.storage.has(f"{PICTURES}/{id}.png"):  # by a worker that was killed before it could say so
                    ends[place] = outcome(row, id)
                    continue
                pack = self._pack(row.pack, mark)
                self.painter.check(row.prompt, row.negative_prompt, pack)
                wanted.append((place, Row(row.prompt, row.negative_prompt, pack, row.seed)))
            except SdkError as error:
                ends[place] = outcome(row, id, str(error))
        for first in range(0, len(wanted), self.most):
            batch = wanted[first : first + self.most]
            for (place, _), reason in zip(batch, self._drawn([(rows[p][2], row) for p, row in batch]), strict=True):
                ends[place] = outcome(rows[place][0], rows[place][2], reason)
        return [ends[place] for place in range(len(rows))]

    def _pack(self, place: str, mark: str) -> Any:
        if not place:
            return None
        # What is read is a text and its mark here, and the number is all that the cache knows a pack by.
        return self.packs.get(KeptPack(int(mark[:15], 16), place, (place, mark), 0, 0.0, {}))  # type: ignore[arg-type]

    def _drawn(self, batch: list[tuple[str, Row]]) -> list[str]:
        """Draw and write a batch; return why pictures are not there, or nothing. One that fails fails alone."""
        try:
            images = self.painter.draw([row for _, row in batch], self.how)
        except (SdkError, MemoryError, RuntimeError) as error:  # torch's own, where memory ran out, too
            if len(batch) > 1:
                return [reason for each in batch for reason in self._drawn([each])]
            return [str(error) if isinstance(error, SdkError) else f"{printable(error, 300)} ({type(error).__name__})"]
        reasons = []
        for (id, _), image in zip(batch, images, strict=True):
            try:
                self.storage.write(f"{PICTURES}/{id}.png", png_bytes(image))
                reasons.append("")
            except OutputError as error:
                reasons.append(str(error))
        return reasons


class _Fetching:
    """Reads packs for the cache, also those that are at addresses."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter

    def size_of(self, pack: Any) -> int:
        """Return how many bytes a pack takes in memory."""
        return self.painter.size_of(pack)

    def read_pack(self, path: Any) -> Any:
        """Read a pack from a folder or an address, given with its mark."""
        place, mark = path
        if not is_address(place):
            return self._marked(place, mark)
        with tempfile.TemporaryDirectory(prefix="personalizer-pack-") as folder:
            fetch_folder(place, Path(folder), file_limit)
            return self._marked(folder, mark)

    def _marked(self, folder: str, mark: str) -> Any:
        pack = self.painter.read_pack(Path(folder))
        if pack_mark(folder) != mark:
            raise InputError("the pack changed while pictures were drawn; call it again")
        return pack
