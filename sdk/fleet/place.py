"""Where a fit of a fleet writes: in the output if that is a folder, else on this machine and then to the output."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..disk.caching import cache_folder
from ..disk.folders import BusyError, exclusive
from ..errors import OutputError, PackError
from ..fit.kept.checkpoint import CHECKPOINT, read_about
from ..fit.kept.metrics import METRICS
from ..fit.kept.output import unfinished
from ..pack import MANIFEST
from ..runtime import check_cancelled
from .outcomes import Outcome
from .records import PACKS, recorded
from .storage import Storage, packed, unpack

log = logging.getLogger("sdk")
CHECKPOINTS = "checkpoints"  # of fits under way, where the output is no folder
_LOOKS = 0.2  # seconds between two looks at whether another fit of the same has ended


class Place:
    """Where one job's fit writes.

    Args:
        storage: the fleet's output.
        id: of the job.

    Attributes:
        folder: for the fit's pack.
    """

    def __init__(self, storage: Storage, id: str) -> None:
        self.storage, self.id = storage, id
        self._mine = cache_folder() / "fleet" / hashlib.sha256(storage.place.encode()).hexdigest()[:16]
        self.folder = (self._mine if storage.local is None else storage.local) / PACKS / id
        self._kept = 0  # when the checkpoint was written that the output has

    @contextmanager
    def held(self, cancel: threading.Event | None) -> Iterator[Outcome | None]:
        """Have the place to oneself; yields what came of the job if another fleet on this machine did it meanwhile.

        A folder's own lock does that where the output is one.
        """
        if self.storage.local is not None:
            yield None
            return
        lock = self._mine / "locks" / self.id
        with ExitStack() as stack:
            while True:
                lock.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(exclusive(lock, "another fit of the same is under way"))
                    break
                except BusyError:
                    check_cancelled(cancel)
                    time.sleep(_LOOKS)
            stack.callback(shutil.rmtree, lock, ignore_errors=True)
            yield recorded(self.storage, [self.id]).get(self.id)

    @contextmanager
    def files(self, contents: Sequence[bytes]) -> Iterator[list[Path]]:
        """Have files of this machine with these contents for the length of a block."""
        with tempfile.TemporaryDirectory(prefix="personalizer-job-") as folder:
            paths = [Path(folder) / str(number) for number in range(len(contents))]
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
            yield paths

    def fetch(self) -> None:
        """Take the checkpoint that another machine left, if it is further than what is here."""
        if self.storage.local is not None or self.folder.exists():
            return
        data = self.storage.read(self._checkpoint)
        if data is None:
            return
        partial = self.folder.with_name(f"{self.id}.partial")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".incoming-") as incoming:
            unpack(data, Path(incoming))
            if _steps(Path(incoming)) <= _steps(partial):
                return
            shutil.rmtree(partial, ignore_errors=True)
            os.rename(incoming, partial)  # all of it at once: a part would be taken for a damaged one
            Path(incoming).mkdir()  # for the block's end

    def keep(self) -> None:
        """Let other machines go on from a checkpoint that was written since the last call.

        Storage that cannot be reached for a while is no reason to stop: the next checkpoint is tried again.
        """
        work = None if self.storage.local is not None else unfinished(self.folder)
        if work is None:
            return
        state = (work / CHECKPOINT).stat().st_mtime_ns
        if state == self._kept:
            return
        try:
            self.storage.write(self._checkpoint, packed(work, (CHECKPOINT, METRICS)))
            self._kept = state
        except OutputError as error:
            log.warning("a checkpoint stays on this machine: %s", error)

    def put(self) -> None:
        """Let the pack appear in the output, its manifest last; one that is there is the same."""
        if self.storage.local is not None or self.storage.has(f"{PACKS}/{self.id}/{MANIFEST}"):
            return
        files = [each for each in self.folder.rglob("*") if each.is_file()]
        for file in sorted(files, key=lambda each: (each.name == MANIFEST, each)):
            name = file.relative_to(self.folder).as_posix()
            self.storage.write(f"{PACKS}/{self.id}/{name}", file.read_bytes())

    def clear(self) -> None:
        """Remove what is needed no more, once the job is recorded."""
        if self.storage.local is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.storage.remove(self._checkpoint)

    @property
    def _checkpoint(self) -> str:
        return f"{CHECKPOINTS}/{self.id}.tar"


def _steps(folder: Path) -> int:
    """How far the checkpoint in a folder is; a damaged one is none."""
    try:
        about = read_about(folder)
    except PackError:
        about = None
    return 0 if about is None else about.step
