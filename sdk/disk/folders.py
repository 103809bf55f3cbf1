"""Folders that are whole or absent: written beside their place, and put there by one renaming."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from ..errors import OutputError
from .files import as_path, lock, reporting_full_disk

_INCOMING = ".personalizer-incoming"  # in a folder that is filled in place
_COMPLETE = ".complete"  # in it, once everything is there
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


class BusyError(OutputError):
    """A folder that another block or program is at."""


@contextmanager
def exclusive(folder: Path, refusal: str) -> Iterator[None]:
    """Have a folder that is there to oneself for the length of a block.

    Raises:
        BusyError: ``refusal``, if another block or program has it.
        OutputError: it cannot be looked at.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:  # gone meanwhile, or not to be looked at
        raise OutputError(f"cannot use {folder}: {error.strerror}; try again, or give another folder") from error
    try:
        if not lock(handle) or not (folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())):
            raise BusyError(refusal)
        yield
    finally:
        os.close(handle)


@contextmanager
def new_folder(
    destination: Path,
    scratch: Path | None = None,
    *,
    manifest: str | None = None,
    by_products: Sequence[str] = (),
    replace: bool = True,
) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``destination`` when the block ends well, and vanishes otherwise.

    Where nothing is, or an empty folder, it is put there by one renaming. A folder that holds the manifest is exchanged
    for the new one, so that there is always the one or the other (on systems without such an exchange there is a moment
    with neither, and the next call puts the old one back if that is where the program died). Files that others put into
    the folder stay. A folder that cannot be renamed (a mount point, the working directory, one in a folder of somebody
    else) is filled in place, the manifest last.

    What a killed call left is removed by the next one.

    Args:
        destination: where it goes; a link is followed.
        scratch: where the temporary folder is made, on the same file system; default beside the destination.
        manifest: a file that is in every folder of this kind; its ``"files"`` are the names that belong to it.
        by_products: patterns of further names that belong to it.
        replace: whether a folder that holds the manifest may be exchanged.

    Raises:
        OutputError: it cannot be written, or holds a file of somebody else under a name that is needed.
    """
    destination = as_path(destination)
    target = Path(os.path.realpath(destination))
    with reporting_full_disk(destination, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target, manifest)
        inside = target.is_dir() and not os.access(target.parent, os.W_OK | os.X_OK)
        parent = scratch or (target if inside else target.parent)
        work, handle = _made(parent, f"{_prefix(target)}{{}}")
    try:
        with reporting_full_disk(destination, work):
            yield work
            synchronise(work)
            if not replace and manifest is not None and (target / manifest).exists():
                raise OutputError(f"{destination} holds something else by now; move it away, or give another folder")
            _put(work, target, manifest, by_products)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(handle)


def recover(target: Path, manifest: str | None) -> None:
    """Finish or remove what killed calls for this folder left; what a running call uses stays."""
    incoming = target / _INCOMING
    if incoming.is_dir() and not incoming.is_symlink():
        with suppress(OSError), _own(incoming):
            if (incoming / _COMPLETE).is_file():
                _move_in(incoming, target, manifest)
            shutil.rmtree(incoming, ignore_errors=True)
    for parent in (target.parent, target):
        with suppress(OSError):
            for left in sorted(parent.glob(f"{_prefix(target)}*")):
                with suppress(OSError), _own(left):
                    if left.name.endswith(".old") and not target.exists():
                        os.rename(left, target)
                    else:
                        shutil.rmtree(left, ignore_errors=True)


def belonging(folder: Path, manifest: str | None, by_products: Sequence[str]) -> set[str]:
    """Return the entries of a folder that belong to what its manifest describes."""
    if manifest is None or not (folder / manifest).is_file():
        return set()
    try:
        listed = json.loads((folder / manifest).read_text(encoding="utf-8"))["files"]
        names = {str(name).partition("/")[0] for name in listed} | {manifest}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a damaged one may be replaced as well
        names = {manifest}
    return {e.name for e in folder.iterdir() if e.name in names or any(fnmatch(e.name, p) for p in by_products)}


def _put(work: Path, target: Path, manifest: str | None, by_products: Sequence[str]) -> None:
    if manifest is not None and (target / manifest).is_file() and not _fixed(target):
        _exchange(work, target, manifest, by_products)
        return
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()) and not _fixed(target)):
        try:
            if target.is_dir():
                work.chmod(target.stat().st_mode & 0o7777)
            os.rename(work, target)  # onto nothing or an empty folder: it fails where anything else has appeared
            _synchronise_names(target.parent)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM):
                raise
    _fill(work, target, manifest, by_products)


def _fixed(folder: Path) -> bool:
    """Whether a folder must stay where it is: a mount point, or where this program stands."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return os.path.ismount(folder)
    return os.path.ismount(folder) or here.is_relative_to(folder)


def _exchange(work: Path, target: Path, manifest: str, by_products: Sequence[str]) -> None:
    """Replace a folder by another, taking along what others put into it."""
    ours = belonging(target, manifest, by_products)
    for entry in sorted(target.iterdir()):
        if entry.name in ours or entry.name == _INCOMING:
            continue
        if os.path.lexists(work / entry.name):
            raise OutputError(f"{entry} is none of the files of the folder that is replaced; move it away")
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, work / entry.name, symlinks=True)
        else:
            _second_name(entry, work / entry.name)
    work.chmod(target.stat().st_mode & 0o7777)
    if not _exchanged(work, target):
        aside = target.with_name(f"{_prefix(target)}{secrets.token_hex(6)}.old")
        os.rename(target, aside)
        os.rename(work, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        for entry in work.iterdir():  # the old one is here now
            if entry.name not in ours and not os.path.lexists(target / entry.name):
                os.rename(entry, target / entry.name)  # it appeared in the last moment
    _synchronise_names(target.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, where the system can; whether it did."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or an old C library
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0


def _fill(work: Path, target: Path, manifest: str | None, by_products: Sequence[str]) -> None:
    """Move everything into a folder that stays, the manifest last; the next call goes on if this one is killed."""
    ours = belonging(target, manifest, by_products)
    for entry in sorted(work.iterdir()):
        if os.path.lexists(target / entry.name) and entry.name not in ours:
            raise OutputError(f"{target / entry.name} is somebody else's; move it away or choose another output")
    incoming, handle = _made(target, _INCOMING)
    try:
        try:
            for entry in sorted(work.iterdir()):
                shutil.move(entry, incoming / entry.name)  # copied where it comes from another file system
            synchronise(incoming)
            (incoming / _COMPLETE).touch()
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        if manifest is not None:
            (target / manifest).unlink(missing_ok=True)  # what is replaced is no longer whole from here on
        for name in ours - {manifest}:
            _removed(target / name)
        _move_in(incoming, target, manifest)
        shutil.rmtree(incoming, ignore_errors=True)
    finally:
        os.close(handle)


def _move_in(incoming: Path, target: Path, manifest: str | None) -> None:
    names = sorted(
        (e.name for e in incoming.iterdir() if e.name != _COMPLETE), key=lambda name: (name == manifest, name)
    )
    for name in names:
        os.replace(incoming / name, target / name)
    _synchronise_names(target)


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _made(parent: Path, name: str) -> tuple[Path, int]:
    """Make a folder that is locked from its beginning; ``{}`` in its name becomes a random part."""
    while True:
        folder = parent / name.format(secrets.token_hex(6))
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        if lock(handle) and folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
            return folder, handle
        os.close(handle)  # between the two it was taken for one that a killed call left


def _second_name(entry: Path, other: Path) -> None:
    """Let a file be in two folders: whoever writes to it goes on writing to the one that stays."""
    try:
        os.link(entry, other, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(entry, other, follow_symlinks=False)


def _prefix(target: Path) -> str:
    """What the temporary folders of a destination begin with."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    return f".personalizer-{name}-"


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Have a leftover to oneself, or raise :class:`OSError`: somebody uses it."""
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0))
    try:
        if not lock(handle):
            raise BlockingIOError(errno.EWOULDBLOCK, "in use")
        yield
    finally:
        os.close(handle)


def synchronise(path: Path) -> None:
    """Have the disk hold a file, or every file of a folder."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _synchronise_names(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
