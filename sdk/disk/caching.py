"""Where the package keeps what it can make again, on this machine and for several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol


class SharedCache(Protocol):
    """What several machines keep together; names have slashes between folders."""

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if there is no such folder."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's content, ``None`` if it is not there."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Keep a file, whole or not at all."""
        ...


_shared: ContextVar[SharedCache | None] = ContextVar("shared", default=None)


def cache_folder() -> Path:
    """Return where what can be made again is kept: ``$PERSONALIZER_CACHE`` or ``~/.cache/personalizer``."""
    given = os.environ.get("PERSONALIZER_CACHE")
    return Path(os.path.expanduser(given or os.path.join("~", ".cache", "personalizer")))


def shared_cache() -> SharedCache | None:
    """Return what several machines keep together, ``None`` where a machine is alone."""
    return _shared.get()


@contextmanager
def sharing(cache: SharedCache | None) -> Iterator[None]:
    """Keep what is made in a block with other machines, and take from them what they made."""
    token = _shared.set(cache)
    try:
        yield
    finally:
        _shared.reset(token)
