"""Writing files that are whole or absent, hashes, and locks."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, OutputError, SdkError
from . import reading

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What to do about the system's refusal to write, by its number; anything else: another place.
_ADVICE = {
    errno.ENOSPC: "free some space or choose another output",
    errno.EDQUOT: "free some space or choose another output",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


_FEW = 4096  # bytes that are tried
# Of file systems that know no second name for a file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_output_folder(path: str | Path) -> Path:
    """Create a folder for results, or raise :class:`OutputError` saying why it cannot be.

    That files can be written there is tried out, so that nobody works for an hour to be told then.
    """
    folder = as_path(path)
    with reporting_full_disk(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; give a folder as output")
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, 1)
    return folder


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Have a folder for results; one that was made for it and stays empty is removed again."""
    there = os.path.lexists(as_path(path))
    folder = prepare_output_folder(path)
    try:
        yield folder
    finally:
        if not there:
            with suppress(OSError):
                folder.rmdir()  # an empty one alone


def as_path(path: str | os.PathLike) -> Path:
    """Return a path, ``~`` expanded.

    Raises:
        OutputError: something that no path can be.
    """
    if path == "":
        raise OutputError("the output is an empty path; give a folder for the output")
    try:
        return reading.as_path(path, "output")
    except InputError as error:
        raise OutputError(error) from error


def check_space(folder: Path, count: int) -> None:
    """Raise :class:`OSError` if ``count`` bytes cannot be written into a folder; nothing is left there.

    A few bytes are written, to know that they may be; of many the system is asked, because reserving them may take
    long, and on file systems in memory takes that memory.
    """
    name = folder / f".{secrets.token_hex(6)}"
    probe = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        name.unlink()  # the open file goes on without a name, and is gone even if this program is killed
        os.write(probe, b"\0" * min(count, _FEW))
        os.fsync(probe)
    finally:
        os.close(probe)
    if hasattr(os, "statvfs"):
        there = os.statvfs(folder)
        if there.f_blocks and there.f_bavail * there.f_frsize < count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def reporting_full_disk(path: Path, *others: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into an :class:`OutputError` about ``path``.

    An error about a file that is neither in these folders nor above them is no refusal to write there, and passes.
    """
    try:
        yield
    except SdkError:
        raise
    except OSError as error:
        if error.filename is not None and not any(_related(error.filename, each) for each in (path, *others)):
            raise
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write to {path}: {reason}; {_advice(error)}") from error


def _advice(error: OSError) -> str:
    return _ADVICE.get(error.errno or 0, "choose another output")


def _related(name: str | bytes | int, folder: Path) -> bool:
    """Whether one of two paths holds the other."""
    if isinstance(name, int):
        return True
    path, place = os.path.realpath(os.fsdecode(name)), os.path.realpath(folder)
    return Path(path).is_relative_to(place) or Path(place).is_relative_to(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    What a killed writer left is taken over by the next one of the same file.
    """
    path = as_path(path)
    with reporting_full_disk(path.parent):
        handle, temporary = _temporary(path)
        try:
            os.ftruncate(handle, 0)
            yield temporary
            os.fsync(handle)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: afterwards it is the old or the new one, never a part."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_next(folder: Path, name: Callable[[int], str], data: bytes, first: int = 0) -> tuple[Path, int]:
    """Write a new file under the first free number; nothing is ever replaced, whoever else writes there.

    Args:
        folder: where.
        name: of a number.
        data: the content.
        first: number to begin with.

    Returns:
        The file and its number.
    """
    with reporting_full_disk(folder):
        handle, temporary = _temporary(folder / "next")
        try:
            os.ftruncate(handle, 0)
            temporary.write_bytes(data)
            os.fsync(handle)
            number = first
            while True:
                path = folder / name(number)
                try:
                    _named(temporary, path, data)
                    return path, number
                except FileExistsError:
                    number += 1
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _named(temporary: Path, path: Path, data: bytes) -> None:
    """Give a written file its name, or raise :class:`FileExistsError`; a renaming would replace what is there."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("xb") as file:
            file.write(data)


def _temporary(path: Path) -> tuple[int, Path]:
    """Open a file beside ``path`` for nobody but this writer: the one a killed writer left, or a new one."""
    known = path.with_name(f".{hashlib.sha256(path.name.encode(errors='surrogateescape')).hexdigest()[:16]}.part")
    # Not mkstemp, whose files are their owner's alone: this one is as readable as any other new file.
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(known, flags, 0o666)
    if lock(handle) and known.exists() and os.path.samestat(os.fstat(handle), known.stat()):
        return handle, known
    os.close(handle)  # somebody writes the same file now
    other = known.with_name(f".{secrets.token_hex(8)}.part")
    return os.open(other, flags | os.O_EXCL, 0o666), other


def lock(handle: int) -> bool:
    """Lock an open file or folder for as long as it is open; whether that worked, which it does for one at a time.

    The system lets go of it when the program ends, however it ends. Where there are no such locks, nothing is locked.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
