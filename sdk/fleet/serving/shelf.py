"""Packs and pictures in shared storage, as the server wants a library; what :func:`sdk.fleet.fit_many` left is served.

Nobody owns it: any number of servers read and write the same place. ``packs/NAME`` is a pack, by the names that
:func:`sdk.disk.file_names.check_name` lets pass.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...disk.file_names import check_name, is_plain_name
from ...disk.files import write_bytes
from ...disk.reading import MANIFEST_LIMIT, parse_json
from ...errors import InputError, MissingFileError, PackError, SdkError
from ...library import KeptPack, KeptPicture
from ...pack import MANIFEST
from ...rules.arguments import shown
from ..records import PACKS, RECORDS
from ..storage import Storage

SERVED = "served"  # folder of pictures that were asked for by address
_IDS = re.compile(r"[0-9a-f]{24}")


class Shelf:
    """What a server keeps.

    Args:
        storage: where.

    Attributes:
        packs: in it.
        pictures: likewise.
        uploads: a folder of this machine for what is being sent.
    """

    def __init__(self, storage: Storage) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="personalizer-serve-")
        self.uploads = Path(self._scratch.name)
        self.packs = ShelvedPacks(storage, self.uploads)
        self.pictures = ShelvedPictures(storage, self.uploads)


class ShelvedPacks:
    """The packs of a place."""

    def __init__(self, storage: Storage, scratch: Path) -> None:
        self._storage, self._scratch = storage, scratch

    def get(self, name: str) -> KeptPack:
        """Return a pack; another number where its content is another one.

        Raises:
            MissingFileError: none of this name.
            PackError: one that says nothing of itself.
        """
        data = None
        with suppress(InputError):  # what cannot be a name is none's
            data = self._storage.read(f"{PACKS}/{check_name(name)}/{MANIFEST}")
        if data is None:
            raise MissingFileError(f"there is no pack {shown(name)}")
        if len(data) > MANIFEST_LIMIT:
            raise PackError(f"the pack {name} is damaged; fit or send it again")
        mark = hashlib.sha256(data).hexdigest()
        return KeptPack(int(mark[:15], 16), name, Path(name, mark), len(data), 0.0, _about(data))

    def all(self) -> list[KeptPack]:
        """Return all packs, by name; with many this takes a while."""
        found = []
        for name in sorted(self._storage.folders(PACKS)):
            with suppress(SdkError):  # removed meanwhile, or somebody else's folder
                found.append(self.get(name))
        return found

    def fetch(self, name: str, mark: str, folder: Path, limit: Callable[[str], int]) -> None:
        """Copy a pack's files into a folder of this machine.

        Args:
            name: of the pack.
            mark: the hash of its manifest.
            folder: that is there.
            limit: the most bytes of a file, by its name.

        Raises:
            PackError: it is another one by now.
        """
        place = f"{PACKS}/{check_name(name)}"
        for file in sorted(self._storage.names(place)):
            data = self._storage.read(f"{place}/{file}") if is_plain_name(file) else None
            if data is not None and len(data) <= limit(file):
                (folder / file).write_bytes(data)
        manifest = folder / MANIFEST
        if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() != mark:
            raise PackError(f"the pack {name} is just being replaced; ask again")

    def put(self, name: str, write: Callable[[Path], dict[str, Any]], suffix: str = "") -> KeptPack:
        """Keep a pack, instead of the one of this name if there is one.

        The old manifest goes first and the new one comes last: in between there is no such pack, never a mixed one.
        """
        check_name(name)
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            path = Path(folder) / "pack"
            write(path)
            self._storage.remove(f"{PACKS}/{name}/{MANIFEST}")
            self._storage.remove(f"{RECORDS}/{name}.json")
            for file in sorted(path.iterdir(), key=lambda each: each.name == MANIFEST):
                self._storage.write(f"{PACKS}/{name}/{file.name}", file.read_bytes())
        return self.get(name)

    def remove(self, name: str) -> KeptPack:
        """Remove a pack for good, its manifest first.

        Raises:
            MissingFileError: none of this name.
        """
        kept = self.get(name)
        place = f"{PACKS}/{name}"
        self._storage.remove(f"{RECORDS}/{name}.json")  # of the fit that left it, which may be asked for again
        for file in sorted(self._storage.names(place), key=lambda each: each != MANIFEST):
            self._storage.remove(f"{place}/{file}")
        return kept

    def forget(self, before: float) -> None:
        """What is removed here is gone at once."""


class ShelvedPictures:
    """Pictures that were asked for by address."""

    def __init__(self, storage: Storage, scratch: Path) -> None:
        self._storage, self._scratch = storage, scratch

    def put(self, png: bytes, about: Mapping[str, Any]) -> KeptPicture:
        """Keep a picture."""
        id = secrets.token_hex(12)
        self._storage.write(f"{SERVED}/{id}.png", png)
        return self.get(id)

    def get(self, id: str) -> KeptPicture:
        """Return a picture, or raise :class:`MissingFileError`."""
        data = self._storage.read(f"{SERVED}/{id}.png") if _IDS.fullmatch(id) else None
        if data is None:
            raise MissingFileError("there is no such picture")
        path = self._scratch / f"{id}.png"
        if not path.is_file():
            write_bytes(path, data)
        return KeptPicture(id, path, time.time(), {})

    def forget(self, before: float) -> None:
        """Remove pictures from before a time: copies here, and those of a folder; buckets have rules for it."""
        places = [self._scratch] if self._storage.local is None else [self._scratch, self._storage.local / SERVED]
        for file in [file for place in places for file in place.glob("*.png")]:
            with suppress(FileNotFoundError):  # another server was quicker
                if file.stat().st_mtime < before:
                    file.unlink()


def _about(manifest: bytes) -> dict[str, Any]:
    """What is told of a pack; its own reader checks the rest before it draws."""
    try:
        stated = parse_json(manifest, "a pack's manifest", advice="fit or send it again")
        concepts = [{"token": str(each["token"]), "noun": str(each["class"])} for each in stated["concepts"]]
        return {"concepts": concepts, "licence": str(stated["provenance"].get("licence", ""))}
    except (SdkError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise PackError("a pack's manifest is damaged; fit or send it again") from error
