"""Packs of a library: files under random names, what they are called in the database."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ..disk.file_names import check_name
from ..disk.files import reporting_full_disk
from ..disk.folders import synchronise
from ..errors import InputError, MissingFileError
from ..rules.arguments import shown
from .database import Database
from .folder import own_folder, remove

_NAMES = "SELECT name FROM packs WHERE removed IS NULL"


@dataclass(frozen=True)
class KeptPack:
    """A pack that is kept.

    Attributes:
        id: never used again, so that what is held in memory under it cannot be another pack's.
        name: what users call it.
        path: its file or folder.
        bytes: of it.
        created: seconds since 1970.
        about: what is told of it: its concepts and the like.
    """

    id: int
    name: str
    path: Path
    bytes: int
    created: float
    about: dict[str, Any]


class Packs:
    """The packs of one library. Several threads may use one.

    Args:
        database: the library's.
        folder: where their files are; what nobody knows there, left by a killed program, is removed.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        own_folder(folder, {row["file"] for row in database.rows("SELECT file FROM packs")})

    def put(
        self, name: str, write: Callable[[Path], dict[str, Any]], suffix: str = "", replaces: bool = True
    ) -> KeptPack:
        """Keep a pack, instead of the one of this name if there is one.

        Args:
            name: see :func:`sdk.disk.file_names.check_name`.
            write: makes a file or a folder, and returns what is told of it; what it raises passes, and nothing is kept.
            suffix: of the file.
            replaces: whether one of this name goes; else this one gets a number behind its name.
        """
        check_name(name)
        file = secrets.token_hex(12) + suffix
        path = self._folder / file
        with reporting_full_disk(self._folder):
            try:
                about = write(path)
                size = _size(path)
                synchronise(path)
                with self._database.change() as change:
                    if not replaces:
                        name = free_name(name, {row["name"] for row in change.execute(_NAMES)})
                    change.execute(
                        "UPDATE packs SET removed = ? WHERE name = ? AND removed IS NULL", (time.time(), name)
                    )
                    change.execute(
                        "INSERT INTO packs (name, file, bytes, created, about) VALUES (?, ?, ?, ?, ?)",
                        (name, file, size, time.time(), json.dumps(about)),
                    )
            except BaseException:
                remove(path)
                raise
        return self.get(name)

    def get(self, name: str) -> KeptPack:
        """Return a pack.

        Raises:
            MissingFileError: none of this name.
        """
        rows = self._database.rows("SELECT * FROM packs WHERE name = ? AND removed IS NULL", name)
        if not rows:
            raise MissingFileError(f"there is no pack {shown(name)}")
        return self._kept(rows[0])

    def all(self) -> list[KeptPack]:
        """Return all packs, by name."""
        return [self._kept(r) for r in self._database.rows("SELECT * FROM packs WHERE removed IS NULL ORDER BY name")]

    def removed(self) -> list[KeptPack]:
        """Return what was removed or replaced and is not forgotten, the last one first."""
        rows = self._database.rows("SELECT * FROM packs WHERE removed IS NOT NULL ORDER BY removed DESC")
        return [self._kept(row) for row in rows]

    def rename(self, name: str, new: str) -> KeptPack:
        """Give a pack another name, which no other has.

        Raises:
            MissingFileError: none of the old name.
            InputError: a name that is taken, or none that can be.
        """
        kept = self.get(name)
        check_name(new)
        try:
            with self._database.change() as change:
                change.execute("UPDATE packs SET name = ? WHERE id = ?", (new, kept.id))
        except sqlite3.IntegrityError as error:
            raise InputError(f"there is a pack {new} already; choose another name") from error
        return self.get(new)

    def remove(self, name: str) -> KeptPack:
        """Take a pack away; :meth:`restore` brings it back until :meth:`forget` is called.

        Raises:
            MissingFileError: none of this name.
        """
        kept = self.get(name)
        with self._database.change() as change:
            change.execute("UPDATE packs SET removed = ? WHERE id = ?", (time.time(), kept.id))
        return kept

    def restore(self, id: int) -> KeptPack:
        """Bring a removed or replaced pack back.

        Raises:
            MissingFileError: it is forgotten.
            InputError: another has its name now.
        """
        rows = self._database.rows("SELECT name FROM packs WHERE id = ? AND removed IS NOT NULL", id)
        if not rows:
            raise MissingFileError("this pack is gone for good")
        name = rows[0]["name"]
        try:
            with self._database.change() as change:
                change.execute("UPDATE packs SET removed = NULL WHERE id = ?", (id,))
        except sqlite3.IntegrityError as error:
            raise InputError(f"there is another pack {name} now; rename that first") from error
        return self.get(name)

    def forget(self, before: float) -> int:
        """Remove the files of what was removed or replaced before a time, in seconds since 1970; return how many."""
        rows = self._database.rows("SELECT id, file FROM packs WHERE removed < ?", before)
        for row in rows:
            remove(self._folder / row["file"])
            with self._database.change() as change:
                change.execute("DELETE FROM packs WHERE id = ?", (row["id"],))
        return len(rows)

    def _kept(self, row: sqlite3.Row) -> KeptPack:
        about = json.loads(row["about"])
        return KeptPack(row["id"], row["name"], self._folder / row["file"], row["bytes"], row["created"], about)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name, or it with the first number behind it that is not taken."""
    if name not in taken:
        return name
    return next(each for number in count(2) if (each := f"{name}-{number}") not in taken)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
