"""Drawn prior pictures on disk, one by one: a file's name holds the hash of what it is a picture of and of its bytes.

So a picture that was damaged, exchanged or renamed is known for what it is, and drawn again; and no interruption costs
more than the pictures that were being drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

from ..disk.caching import cache_folder, shared_cache
from ..disk.files import write_bytes
from ..disk.reading import read_bytes
from ..errors import InputError, MissingFileError, OutputError
from ..images.image_io import png

log = logging.getLogger("sdk")
_LARGEST = 1 << 26  # bytes of a file that is read


class PriorCache:
    """Pictures of one set: of one model, drawn in one way, from one list of prompts.

    A cache that cannot be written is said once and gone without.

    Args:
        identity: everything the pictures depend on, as plain values.
    """

    def __init__(self, identity: Mapping[str, Any]):
        self._text = json.dumps(identity, sort_keys=True)
        self._key = hashlib.sha256(self._text.encode()).hexdigest()[:32]
        self.folder = cache_folder() / "priors" / self._key
        self._names: dict[int, list[str]] = {}
        self._writable = True
        self._shared = shared_cache()
        here: list[str] = []
        with suppress(OSError):  # none yet, or somebody else's: writing tells
            here = os.listdir(self.folder)
        taken: list[str] = []
        try:
            taken = self._taken(set(here))
        except OutputError as error:
            self._alone(error)
        for name in sorted({*here, *taken}):
            number = _number(name)
            if number is not None:
                self._names.setdefault(number, []).append(name)

    def _taken(self, here: set[str]) -> list[str]:
        """Take what other machines drew of this set; return the names."""
        taken = []
        for name in sorted(self._shared.names(self._folder) - here) if self._shared is not None else ():
            number = _number(name)
            data = None if self._shared is None or number is None else self._shared.read(f"{self._folder}/{name}")
            # A name that is not made of its number and content is nobody's picture, nor a path to write to.
            if number is not None and data is not None and name == self._name(number, data) and self._write(name, data):
                taken.append(name)
        return taken

    @property
    def _folder(self) -> str:
        return f"priors/{self._key}"

    def read(self, index: int, resolution: int) -> Image.Image | None:
        """Return a picture, RGB ``resolution`` squared, or ``None`` if it is not there.

        Files of its number that are not what was written go.
        """
        found = None
        for name in self._names.get(index, []):
            path = self.folder / name
            try:
                data = read_bytes(path, limit=_LARGEST)
            except (InputError, MissingFileError):  # gone meanwhile, somebody else's, or no file at all
                continue
            if name != self._name(index, data):
                with suppress(OSError):
                    path.unlink()
                continue
            with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
                image = opened.convert("RGB")
            if image.size == (resolution, resolution):
                found = found or image
        return found

    def write(self, index: int, image: Image.Image) -> None:
        """Keep a picture."""
        data = png(image)
        name = self._name(index, data)
        self._write(name, data)
        if self._shared is not None:
            try:
                self._shared.write(f"{self._folder}/{name}", data)
            except OutputError as error:
                self._alone(error)

    def _alone(self, error: OutputError) -> None:
        """Go on without other machines."""
        self._shared = None
        log.warning("prior pictures are not shared with other machines: %s", error)

    def _write(self, name: str, data: bytes) -> bool:
        """Write a file on this machine; whether that worked."""
        if not self._writable:
            return False
        if str(self.folder).startswith("~"):  # this user has no home
            self._give_up("there is no home folder")
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "about.json").exists():
                write_bytes(self.folder / "about.json", self._text.encode() + b"\n")
            write_bytes(self.folder / name, data)
        except (OSError, OutputError) as error:
            self._give_up(getattr(error, "strerror", None) or error)
            return False
        return True

    def _give_up(self, why: object) -> None:
        self._writable = False
        log.warning(
            "prior pictures cannot be kept in %s (%s) and are drawn anew each time; point PERSONALIZER_CACHE to a "
            "folder that you may write to",
            self.folder,
            why,
        )

    def _name(self, index: int, data: bytes) -> str:
        digest = hashlib.sha256(f"{self._key} {index} ".encode() + data).hexdigest()
        return f"{index:05d}-{digest[:24]}.png"


def _number(name: str) -> int | None:
    """The number of a picture that a file's name begins with."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
