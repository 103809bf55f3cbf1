"""The files of a library: what nobody knows goes, what is kept is on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from ..disk.files import reporting_full_disk


def own_folder(folder: Path, known: Collection[str]) -> None:
    """Have a folder in which there is nothing but what the database knows: the rest was left by a killed program."""
    with reporting_full_disk(folder):
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.name not in known:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
