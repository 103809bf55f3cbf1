"""Pictures of a library; none is ever replaced."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk.files import write_bytes
from ..errors import MissingFileError
from .database import Database
from .folder import own_folder, remove


@dataclass(frozen=True)
class KeptPicture:
    """A picture that is kept.

    Attributes:
        id: what nobody guesses: 24 hexadecimal digits.
        path: of the PNG file.
        created: seconds since 1970.
        about: how it was drawn.
    """

    id: str
    path: Path
    created: float
    about: dict[str, Any]


class Pictures:
    """The pictures of one library. Several threads may use one.

    Args:
        database: the library's.
        folder: where their files are.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        own_folder(folder, {row["file"] for row in database.rows("SELECT file FROM pictures")})

    def put(self, png: bytes, about: Mapping[str, Any], gallery: bool = False) -> KeptPicture:
        """Keep a picture; one of the gallery until it is removed, another until it is forgotten."""
        file = f"{secrets.token_hex(12)}.png"
        write_bytes(self._folder / file, png)
        with self._database.change() as change:
            change.execute(
                "INSERT INTO pictures (file, created, about, gallery) VALUES (?, ?, ?, ?)",
                (file, time.time(), json.dumps(about), int(gallery)),
            )
        return self.get(file.removesuffix(".png"))

    def get(self, id: str) -> KeptPicture:
        """Return a picture, or raise :class:`MissingFileError`."""
        rows = self._database.rows("SELECT * FROM pictures WHERE file = ?", f"{id}.png")
        if not rows:
            raise MissingFileError("there is no such picture")
        return self._kept(rows[0])

    def gallery(self, count: int, after: int = 0) -> list[KeptPicture]:
        """Return so many pictures of the gallery, the last one first, after so many others."""
        rows = self._database.rows(
            "SELECT * FROM pictures WHERE gallery = 1 ORDER BY id DESC LIMIT ? OFFSET ?", count, after
        )
        return [self._kept(row) for row in rows]

    def in_gallery(self) -> int:
        """Return how many pictures the gallery has."""
        return int(self._database.rows("SELECT COUNT(*) FROM pictures WHERE gallery = 1")[0][0])

    def remove(self, id: str) -> None:
        """Remove a picture for good, or raise :class:`MissingFileError`."""
        kept = self.get(id)
        remove(kept.path)
        self._forget(kept.path.name)

    def forget(self, before: float) -> int:
        """Remove pictures from before a time, in seconds since 1970, but for the gallery's; return how many."""
        rows = self._database.rows("SELECT file FROM pictures WHERE created < ? AND gallery = 0", before)
        for row in rows:
            remove(self._folder / row["file"])
            self._forget(row["file"])
        return len(rows)

    def _forget(self, file: str) -> None:
        with self._database.change() as change:
            change.execute("DELETE FROM pictures WHERE file = ?", (file,))

    def _kept(self, row: sqlite3.Row) -> KeptPicture:
        file = str(row["file"])
        return KeptPicture(file.removesuffix(".png"), self._folder / file, row["created"], json.loads(row["about"]))
