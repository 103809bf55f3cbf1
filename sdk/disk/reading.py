"""Reading files: regular ones of bounded size, and one sentence for whatever else stands at a path.

A path or a file may come from anywhere: a pipe must not hang, a device must not be read, a table of ten million levels
must not be parsed. Every room reads by these functions.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError, MissingFileError
from ..printable import printable

MANIFEST_LIMIT = 4 << 20  # bytes; tables of settings, norms and file names are a few thousand
TABLE_LIMIT = 16 << 20  # bytes; the largest table there is, a tokenizer's, has 4 million
_TEXT_LIMIT = 1 << 20  # bytes of what a person writes
_DEEPEST = 40  # tables in tables; what writes and compares them again walks down them
_IS_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_IS_NO_FILE = (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP)  # of sockets and devices without anything behind them


def as_path(source: object, what: str = "file") -> Path:
    """Return a path as the system takes it, with ``~`` expanded.

    Raises:
        InputError: something that is no path, or text that no path can hold.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"the {what} must be given by a path, got a {type(source).__name__}")
    try:
        text = os.fsdecode(source)
        if not text:
            raise ValueError("it is empty")
        os.fsencode(text)  # lone surrogates
        if "\0" in text:
            raise ValueError("it holds a NUL character")
        return Path(text).expanduser()
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{printable(source)!r} is no path ({what}: {error}); check it") from error


def open_regular(
    source: object,
    *,
    limit: int,
    what: str = "file",
    kind: type[InputError] = InputError,
    advice: str = "check the path",
) -> BinaryIO:
    """Open a file to read; links are followed.

    Args:
        source: its path.
        limit: the most bytes that it may have.
        what: how messages call it.
        kind: the error for what cannot be read.
        advice: what to do if it is missing.

    Raises:
        MissingFileError: nothing there.
        InputError: of the ``kind``: no regular file, one that may not be read, or a larger one.
    """
    path = as_path(source, what)
    try:
        _check_regular(os.stat(path), path, limit, kind, advice)
        # Without waiting: since it was looked at, another thing may have come to the path, such as a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        opened = os.fdopen(handle, "rb")
        try:
            _check_regular(os.fstat(handle), path, limit, kind, advice)
        except BaseException:
            opened.close()
            raise
        return opened
    except MissingFileError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        code = getattr(error, "errno", None)
        if code in _IS_ABSENT:
            raise MissingFileError(f"there is no {what} {path}; {advice}") from error
        if code in _IS_NO_FILE:
            raise kind(f"{path} is no regular file; {advice}") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise kind(f"{path} cannot be read: {reason}; check its name and its permissions") from error


def _check_regular(about: os.stat_result, path: Path, limit: int, kind: type[InputError], advice: str) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise kind(f"{path} is a folder; {advice}")
    if not stat.S_ISREG(about.st_mode):
        raise kind(f"{path} is no regular file but a pipe, a socket or a device; {advice}")
    if about.st_size > limit:
        raise kind(f"{path} has {about.st_size:,} bytes, more than the {limit:,} that are read of such a file")


def read_bytes(
    source: object,
    *,
    limit: int,
    what: str = "file",
    kind: type[InputError] = InputError,
    advice: str = "check the path",
) -> bytes:
    """Return a file's content; arguments and errors are those of :func:`open_regular`."""
    with open_regular(source, limit=limit, what=what, kind=kind, advice=advice) as file:
        try:
            # Not the whole limit at once: that much memory would be asked for. Some files of the system have no size.
            content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
            while len(content) <= limit and (more := file.read(1 << 20)):
                content += more
        except OSError as error:
            raise kind(f"{source} cannot be read: {error.strerror or error}; copy it again") from error
        except MemoryError as error:
            raise kind(f"{source} is larger than the memory that is free; close other programs") from error
    if len(content) > limit:
        raise kind(f"{source} has more than the {limit:,} bytes that are read of such a file")
    return content


def read_text(
    source: object,
    *,
    limit: int = _TEXT_LIMIT,
    what: str = "file",
    kind: type[InputError] = InputError,
    advice: str = "check the path",
) -> str:
    """Return a file's text, UTF-8 with or without byte-order marks; see :func:`open_regular`."""
    content = read_bytes(source, limit=limit, what=what, kind=kind, advice=advice)
    try:
        return content.decode("utf-8").lstrip("\ufeff")  # some programs put a second mark before the first
    except UnicodeDecodeError as error:
        raise kind(f"{source} is not UTF-8 text; save it as UTF-8") from error


def read_json(
    source: object,
    *,
    limit: int = MANIFEST_LIMIT,
    what: str = "file",
    kind: type[InputError] = InputError,
    advice: str = "check the path",
) -> Any:
    """Return what a JSON file holds; see :func:`parse_json` and :func:`open_regular`."""
    content = read_bytes(source, limit=limit, what=what, kind=kind, advice=advice)
    return parse_json(content, source, kind=kind, advice=advice)


def parse_json(content: bytes, name: object, *, kind: type[InputError] = InputError, advice: str) -> Any:
    """Return the value of JSON: numbers are finite, texts can be written again, tables are not nested without end.

    Args:
        content: UTF-8, with or without a byte-order mark.
        name: of the file, for messages.
        kind: the error for what cannot be read.
        advice: what to do about it.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_refused, parse_float=_finite)
        _check_nesting(value)
    except (ValueError, RecursionError) as error:
        raise kind(f"{name} is damaged ({_reason(error)}); {advice}") from error
    return value


def read_toml(source: object, *, advice: str = "check the path of the configuration") -> dict[str, Any]:
    """Return the table of a TOML file that a person wrote.

    Raises:
        MissingFileError: nothing there.
        InputError: no regular file, a large one, or no valid TOML.
    """
    text = read_text(source, advice=advice)
    try:
        value = tomllib.loads(text)
        _check_nesting(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not valid TOML ({_reason(error)}); correct it") from error
    return value


def _reason(error: BaseException) -> str:
    return "tables in tables without end" if isinstance(error, RecursionError) else str(error)


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{printable(digits, 40)} is beyond all numbers")
    return value


def _check_nesting(value: Any) -> None:
    """Refuse deep tables and texts that are not Unicode, which JSON can spell."""
    left = [(value, 0)]
    while left:
        inner, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("tables in tables without end")
        if isinstance(inner, str):
            inner.encode()
        elif isinstance(inner, dict):
            left += [(part, depth + 1) for pair in inner.items() for part in pair]
        elif isinstance(inner, list):
            left += [(part, depth + 1) for part in inner]
