"""SQLite as the library uses it: a connection a thread, and every change on the disk before it is acknowledged."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OutputError

_WAIT = 30.0  # seconds for another thread's change
# One script a version: a library of an older one goes through those that it lacks.
_SCRIPTS = (
    """
    CREATE TABLE packs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        file TEXT NOT NULL UNIQUE,
        bytes INTEGER NOT NULL,
        created REAL NOT NULL,
        about TEXT NOT NULL,
        removed REAL
    );
    CREATE UNIQUE INDEX packs_by_name ON packs (name) WHERE removed IS NULL;
    CREATE TABLE pictures (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        file TEXT NOT NULL UNIQUE,
        created REAL NOT NULL,
        about TEXT NOT NULL
    );
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        folder TEXT NOT NULL UNIQUE,
        created REAL NOT NULL,
        ended REAL,
        asked TEXT NOT NULL,
        status TEXT NOT NULL,
        message TEXT NOT NULL DEFAULT '',
        pack INTEGER
    );
    """,
)


class Database:
    """The database of one library.

    Args:
        file: where it is or shall be.

    Raises:
        OutputError: a file that is none, one of a later version, or a folder that cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._own = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._bring_up_to_date()
        except sqlite3.Error as error:
            raise OutputError(f"{file} cannot be used ({error}); choose another library") from error

    def _bring_up_to_date(self) -> None:
        connection = self._connection()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_SCRIPTS):
            raise OutputError(f"{self.file} is of a later version; update the package")
        for number, script in enumerate(_SCRIPTS[version:], start=version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # in WAL mode the default would lose the last changes
            self._own.connection = connection
            with self._lock:
                self._all.append(connection)
        return connection

    def rows(self, question: str, *values: Any) -> list[sqlite3.Row]:
        """Return the answer to a question."""
        return self._connection().execute(question, values).fetchall()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Have a connection whose changes are all made when the block ends well, or none."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connections of all threads, which use it no more."""
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
