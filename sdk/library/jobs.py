"""Fits that were asked for: what is asked is on the disk before it is acknowledged, and goes on after any end."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk.files import reporting_full_disk, write_bytes
from ..errors import MissingFileError
from .database import Database
from .folder import own_folder, remove

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
STATUSES = (WAITING, RUNNING, DONE, FAILED, CANCELLED)


@dataclass(frozen=True)
class Job:
    """A fit that was asked for.

    Attributes:
        id: its number.
        folder: of its files, and of the work on it.
        created: seconds since 1970.
        ended: likewise, ``None`` before it ended.
        asked: what is asked, as the one who asks wrote it.
        status: one of :data:`STATUSES`.
        message: why it failed.
        pack: the id of the pack that was learned.
    """

    id: int
    folder: Path
    created: float
    ended: float | None
    asked: dict[str, Any]
    status: str
    message: str
    pack: int | None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in (WAITING, RUNNING)


class Jobs:
    """The jobs of one library; those that ran when a program ended wait again. Several threads may use one.

    Args:
        database: the library's.
        folder: where their folders are.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        with database.change() as change:
            change.execute("UPDATE jobs SET status = ? WHERE status = ?", (WAITING, RUNNING))
        own_folder(folder, {row["folder"] for row in database.rows("SELECT folder FROM jobs")})

    def add(self, asked: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        """Keep a job and its files, whose names are the program's, and put it at the end of the line."""
        folder = self._folder / secrets.token_hex(12)
        with reporting_full_disk(folder):
            folder.mkdir()
            for name, content in files.items():
                write_bytes(folder / name, content)
        with self._database.change() as change:
            added = change.execute(
                "INSERT INTO jobs (folder, created, asked, status) VALUES (?, ?, ?, ?)",
                (folder.name, time.time(), json.dumps(asked), WAITING),
            )
        return self.get(int(added.lastrowid or 0))

    def get(self, id: int) -> Job:
        """Return a job, or raise :class:`MissingFileError`."""
        rows = self._database.rows("SELECT * FROM jobs WHERE id = ?", id)
        if not rows:
            raise MissingFileError(f"there is no fit {id}")
        return self._job(rows[0])

    def all(self) -> list[Job]:
        """Return all jobs, the last one first."""
        return [self._job(row) for row in self._database.rows("SELECT * FROM jobs ORDER BY id DESC")]

    def begin(self) -> Job | None:
        """Take the first one that waits; it runs from now on."""
        with self._database.change() as change:
            row = change.execute("SELECT id FROM jobs WHERE status = ? ORDER BY id LIMIT 1", (WAITING,)).fetchone()
            if row is None:
                return None
            change.execute("UPDATE jobs SET status = ? WHERE id = ?", (RUNNING, row["id"]))
        return self.get(row["id"])

    def end(self, id: int, status: str, message: str = "", pack: int | None = None, only: str = RUNNING) -> bool:
        """Note how a job ended; whether it was what ``only`` says until then."""
        with self._database.change() as change:
            ended = change.execute(
                "UPDATE jobs SET status = ?, message = ?, pack = ?, ended = ? WHERE id = ? AND status = ?",
                (status, message, pack, time.time(), id, only),
            )
        return ended.rowcount > 0

    def waiting(self) -> int:
        """Return how many wait."""
        return int(self._database.rows("SELECT COUNT(*) FROM jobs WHERE status = ?", WAITING)[0][0])

    def again(self, id: int) -> Job:
        """Let one that failed or was cancelled wait again: it goes on from its last checkpoint.

        Raises:
            MissingFileError: there is none.
        """
        self.get(id)
        with self._database.change() as change:
            change.execute(
                "UPDATE jobs SET status = ?, message = '', ended = NULL WHERE id = ? AND status IN (?, ?)",
                (WAITING, id, FAILED, CANCELLED),
            )
        return self.get(id)

    def remove(self, id: int) -> None:
        """Forget a job that is over, and its files."""
        job = self.get(id)
        remove(job.folder)
        with self._database.change() as change:
            change.execute("DELETE FROM jobs WHERE id = ?", (id,))

    def _job(self, row: sqlite3.Row) -> Job:
        asked = json.loads(row["asked"])
        folder = self._folder / row["folder"]
        return Job(row["id"], folder, row["created"], row["ended"], asked, row["status"], row["message"], row["pack"])
