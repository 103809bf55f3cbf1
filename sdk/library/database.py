"""SQLite as the library uses it: every change on the disk before it is acknowledged."""

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
    """
    ALTER TABLE pictures ADD COLUMN gallery INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX pictures_of_the_gallery ON pictures (gallery, id);
    """,
)


class Database:
    """The database of one library. Several threads may use one; connections are lent, as many as are used at once.

    Args:
        file: where it is or shall be.

    Raises:
        OutputError: a file that is none, one of a later version, or a folder that cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._free: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._bring_up_to_date()
        except sqlite3.Error as error:
            raise OutputError(f"{file} cannot be used ({error}); choose another library") from error

    def _bring_up_to_date(self) -> None:
        with self._lent() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(_SCRIPTS):
                raise OutputError(f"{self.file} is of a later version; update the package")
            for number, script in enumerate(_SCRIPTS[version:], start=version + 1):
                connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._free.pop() if self._free else None
        if connection is None:
            connection = sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # in WAL mode the default would lose the last changes
        try:
            yield connection
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # of what is asked, not of the file
            raise
        except sqlite3.DatabaseError as error:
            raise OutputError(f"cannot use {self.file}: {error}; free some space, or choose another library") from error
        finally:
            with self._lock:
                self._free.append(connection)

    def rows(self, question: str, *values: Any) -> list[sqlite3.Row]:
        """Return the answer to a question."""
        with self._lent() as connection:
            return connection.execute(question, values).fetchall()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Have a connection whose changes are all made when the block ends well, or none."""
        with self._lent() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connections, which nobody uses any more."""
        with self._lock:
            for connection in self._free:
                connection.close()
            self._free.clear()
