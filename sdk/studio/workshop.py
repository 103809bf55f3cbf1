"""What the page works with: the model, the library, the line of drawings and the line of fits."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept
from ..disk.file_names import check_name
from ..errors import InputError, PackError, SdkError
from ..eval.scorers import registered_scorers
from ..images.record import png_bytes, record_of
from ..library import KeptPack, KeptPicture, Library
from ..library.jobs import DONE
from ..library.packs import free_name
from ..pack import ConceptPack
from ..serve.api.uploads import unpack
from ..serve.described import described, without_path
from ..serve.drawing.batching import Batcher, Busy, Order
from ..serve.drawing.pack_cache import PackCache
from ..serve.drawing.painter import How, Painter, Row
from ..serve.fitting import Fitter
from .words import to_prompt

MOST_PICTURES = 16  # of one drawing
_LINE = 64  # pictures that may wait
_HELD = 1 << 30  # bytes of packs in memory
_UPLOAD = 1 << 30  # bytes of an unpacked pack
_UNDO = 7 * 24 * 3600.0  # seconds for which a pack that was deleted is kept
_FEW_WORDS = 2000  # a vocabulary that can be looked through


class Workshop:
    """The parts of one studio; a context manager, whose end waits for the batch at hand.

    Args:
        library: where packs, pictures and fits are kept.
        painter: draws.
        fitter: learns, with the same base model.
    """

    def __init__(self, library: Library, painter: Painter, fitter: Fitter) -> None:
        self.library, self.painter, self.fitter = library, painter, fitter
        self.packs = PackCache(painter, _HELD)
        self.batcher = Batcher(painter, painter.most_at_once, _LINE)
        self.stopping = threading.Event()
        self.nouns = self._known_nouns()
        library.packs.forget(time.time() - _UNDO)

    @property
    def model(self) -> Any:
        """The base model as a :class:`sdk.Personalizer`."""
        return self.fitter.model

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *of: Any) -> None:
        self.stop()
        self.batcher.close()

    def stop(self) -> None:
        """Let what is being done end soon, and refuse what waits and what comes."""
        self.stopping.set()
        self.batcher.refuse()

    # What is there

    def names(self) -> list[str]:
        """Return the names of all packs."""
        return [kept.name for kept in self.library.packs.all()]

    def find(self, id: int | None) -> KeptPack | None:
        """Return a pack by its id, whatever it is called now; ``None`` if it is not there any more."""
        return next((kept for kept in self.library.packs.all() if kept.id == id), None)

    @property
    def learns(self) -> bool:
        """Whether something is being learned, or waits for it."""
        return any(not job.over for job in self.library.jobs.all())

    def read(self, name: str) -> ConceptPack:
        """Return a pack.

        Raises:
            SdkError: there is none, it is damaged or another model's.
        """
        kept = self.library.packs.get(name)
        try:
            return self.packs.get(kept)
        except SdkError as error:
            raise PackError(without_path(error, kept.path, f"the pack {name}")) from error

    def taken(self) -> set[str]:
        """Return the names of all packs, and of those that are being learned or can be learned further."""
        return {*self.names(), *(job.asked["name"] for job in self.library.jobs.all() if job.status != DONE)}

    def free_name(self, wanted: str) -> str:
        """Return a name that no pack has: the one that is wanted, or with a number behind it."""
        return free_name(wanted, self.taken())

    def check_new(self, name: str) -> str:
        """Return a name for a new pack.

        Raises:
            InputError: none that can be, or taken.
        """
        check_name(name)
        if name in self.taken():
            raise InputError(f"there is a pack {name} already, or one is being learned; choose another name")
        return name

    # Drawing

    def draw(
        self,
        text: str,
        pack: ConceptPack | None,
        how: How,
        count: int,
        seed: int | None,
        negative: str = "",
        told: Callable[[float], Any] = lambda share: None,
    ) -> tuple[Order, list[str]]:
        """Put a drawing in the line; return it and notes on its prompt.

        Args:
            text: what to draw, with concepts as people name them.
            pack: to draw with; ``None``: the base model alone.
            how: all pictures are drawn.
            count: of pictures.
            seed: of the first; ``None``: any.
            negative: what to steer away from.
            told: called with the share that is done.

        Raises:
            SdkError: what cannot be drawn.
        """
        if not 1 <= count <= MOST_PICTURES:
            raise InputError(f"draw 1 to {MOST_PICTURES} pictures at once, not {count}")
        concepts = [] if pack is None else pack.concepts
        prompt, negative = to_prompt(text, concepts), to_prompt(negative, concepts)
        notes = self.painter.check(prompt, negative, pack)
        first = secrets.randbelow(2**31) if seed is None else seed
        rows = [Row(prompt, negative, pack, first + i) for i in range(count)]
        try:
            return self.batcher.submit(Order(rows, how, told)), notes
        except Busy as error:
            raise InputError("too many pictures wait already; let some of them be drawn first") from error

    def keep(self, image: Image.Image, about: dict[str, Any]) -> KeptPicture:
        """Keep a picture in the gallery."""
        record = record_of(image)
        concepts = [] if record is None else list(record.concepts)
        return self.library.pictures.put(png_bytes(image), about | {"concepts": concepts}, gallery=True)

    # Packs

    def keep_pack(self, name: str, pack: ConceptPack) -> KeptPack:
        """Keep a pack that was made here under a new name."""

        def write(place: Path) -> dict[str, Any]:
            pack.save_pretrained(place)
            return described(pack)

        return self.library.packs.put(self.check_new(name), write)

    def looked_into(self, archive: Path) -> ConceptPack:
        """Read a pack that somebody sent, as a zip file; nothing is kept.

        Raises:
            SdkError: it is none, damaged, another model's.
        """
        with tempfile.TemporaryDirectory(dir=self.library.uploads) as scratch:
            return self._unpacked(archive, Path(scratch) / "pack")

    def take_in(self, archive: Path, name: str) -> KeptPack:
        """Keep a pack that somebody sent, if it is one for this model."""
        return self.library.packs.put(self.check_new(name), lambda place: described(self._unpacked(archive, place)))

    def _unpacked(self, archive: Path, place: Path) -> ConceptPack:
        unpack(archive, place, _UPLOAD)
        try:
            return self.painter.read_pack(place)
        except SdkError as error:
            raise PackError(without_path(error, place, "the file")) from error

    # What the model knows

    def _known_nouns(self) -> list[str]:
        """Classes that somebody can judge pictures of, of a model that knows few words: it was made for these."""
        words = self.model.pipe.tokenizer.get_vocab()
        if len(words) > _FEW_WORDS:
            return []
        scorers = registered_scorers()
        found = [word.removesuffix("</w>") for word in words if word.endswith("</w>") and word[:-4].isalpha()]
        return sorted(w for w in found if any(s.knows([Concept(w, "<new1>")], self.model.resolution) for s in scorers))


def zipped(folder: Path, name: str, scratch: Path) -> Path:
    """Return a zip file of a folder's files, to be downloaded."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    return Path(shutil.make_archive(str(place / name), "zip", folder))


def concepts_of(kept: KeptPack) -> list[Concept]:
    """Return what a pack that is kept has learned."""
    return [Concept(each["noun"], each["token"]) for each in kept.about.get("concepts", [])]
