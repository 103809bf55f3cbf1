"""The library's folder: one program uses it at a time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ..disk.files import prepare_output_folder
from ..disk.folders import exclusive
from .database import Database
from .folder import own_folder
from .jobs import Jobs
from .packs import Packs
from .pictures import Pictures


class Library:
    """Packs, pictures and jobs in a folder; a context manager, whose folder is its own until it is closed.

    Args:
        folder: made if it is not there.

    Attributes:
        folder: the folder.
        uploads: for what is on its way in; emptied at every start.
        packs: what was learned.
        pictures: what was drawn.
        jobs: fits that were asked for.

    Raises:
        OutputError: a folder that cannot be written, another program's, or one of a later version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = prepare_output_folder(folder)
        with ExitStack() as stack:
            refusal = f"the library {self.folder} is in use by another program; stop that, or choose another library"
            stack.enter_context(exclusive(self.folder, refusal))
            database = Database(self.folder / "library.sqlite3")
            stack.callback(database.close)
            self.uploads = self.folder / "uploads"
            own_folder(self.uploads, ())
            self.packs = Packs(database, self.folder / "packs")
            self.pictures = Pictures(database, self.folder / "pictures")
            self.jobs = Jobs(database, self.folder / "jobs")
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let another program have the folder."""
        self._stack.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
