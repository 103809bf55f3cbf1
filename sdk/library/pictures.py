"""Pictures of a library; none is ever replaced."""

from __future__ import annotations

import json
import secrets
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

    def put(self, png: bytes, about: Mapping[str, Any]) -> KeptPicture:
        """Keep a picture."""
        file = f"{secrets.token_hex(12)}.png"
        write_bytes(self._folder / file, png)
        with self._database.change() as change:
            change.execute(
                "INSERT INTO pictures (file, created, about) VALUES (?, ?, ?)", (file, time.time(), json.dumps(about))
            )
        return self.get(file.removesuffix(".png"))

    def get(self, id: str) -> KeptPicture:
        """Return a picture, or raise :class:`MissingFileError`."""
        rows = self._database.rows("SELECT * FROM pictures WHERE file = ?", f"{id}.png")
        if not rows:
            raise MissingFileError("there is no such picture")
        row = rows[0]
        return KeptPicture(id, self._folder / row["file"], row["created"], json.loads(row["about"]))

    def forget(self, before: float) -> int:
        """Remove pictures that were drawn before a time, in seconds since 1970; return how many."""
        rows = self._database.rows("SELECT file FROM pictures WHERE created < ?", before)
        for row in rows:
            remove(self._folder / row["file"])
            with self._database.change() as change:
                change.execute("DELETE FROM pictures WHERE file = ?", (row["file"],))
        return len(rows)
