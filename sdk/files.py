"""Writing that is whole or absent, and hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_output_folder(path: str | Path) -> Path:
    """Create a folder for results, or raise :class:`OutputError` saying why it cannot be."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a folder as output")
    with reporting_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into an :class:`OutputError` about ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write to {path}: {reason}; free some space or choose another output") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: afterwards it is the old or the new one, never a part."""
    with reporting_full_disk(path.parent):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        # Not mkstemp, whose files are their owner's alone: this one is as readable as any other new file.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(destination: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``destination`` when the block ends well, and vanishes otherwise.

    It is made in ``scratch``, which must be on the same file system; default beside the destination.

    An existing ``destination`` is moved aside first and removed only when the new one stands.
    """
    with reporting_full_disk(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=scratch or destination.parent, prefix=f".{destination.name}."))
        try:
            yield work
            for file in work.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            work.chmod(0o755)
            if destination.exists():
                old = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}.old."))
                os.replace(destination, old)
                os.replace(work, destination)
                shutil.rmtree(old)
            else:
                os.replace(work, destination)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
