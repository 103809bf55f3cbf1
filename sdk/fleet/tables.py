"""Tables: CSV, lines of JSON, Parquet. A row that is wrong is none of the others' business."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..disk.reading import parse_json, read_bytes
from ..errors import InputError, SdkError
from ..printable import printable
from ..rules.arguments import shown
from .jobs import COLUMNS, Job, job_of
from .storage import is_address, shown_address

_LARGEST = 1 << 30  # bytes: some millions of rows
_FORMATS = (".csv", ".jsonl", ".parquet")
_NEEDED = ("image", "concepts")  # without which there is no job
_T = TypeVar("_T")


@dataclass(frozen=True)
class Refused:
    """A row that describes no job.

    Attributes:
        name: what reports call it.
        reason: one sentence.
    """

    name: str
    reason: str


def read_jobs(source: str | Path | Iterable[Job | Mapping[str, Any]]) -> list[Job | Refused]:
    """Return the jobs of a table, and why rows are none, in the table's order.

    Args:
        source: a file (``.csv`` with a header, ``.jsonl`` or ``.parquet``) with columns of :data:`COLUMNS`, of which
            ``image`` and ``concepts`` are needed; or jobs, or rows by column. Relative paths of a file belong to its
            folder.

    Raises:
        MissingFileError: no such file.
        InputError: no table, or a column that there is not.
    """
    return jobs_of(job_rows(source))


@dataclass(frozen=True)
class Rows:
    """A table that was read and not understood yet.

    Attributes:
        folder: to which relative paths belong.
        rows: of any kind.
    """

    folder: Path
    rows: list[Any]


def job_rows(source: Any) -> Rows:
    """Return a table of jobs as it is; errors as in :func:`read_jobs`. Unlike :func:`jobs_of` it loads little."""
    return _read(source, COLUMNS, _NEEDED)


def jobs_of(given: Rows) -> list[Job | Refused]:
    """Return the jobs that rows describe, and why rows describe none."""
    return _described(given, Job, job_of, _NEEDED)


def read_table(
    source: Any,
    kind: type[_T],
    made: Callable[[Mapping[str, Any], Path], _T],
    columns: Sequence[str],
    needed: Sequence[str],
) -> list[_T | Refused]:
    """Return what the rows of a table describe, and why some describe nothing.

    Args:
        source: a file, or things of the ``kind``, or rows by column.
        kind: what rows describe.
        made: makes one of a row and the folder that its relative paths belong to.
        columns: that there may be.
        needed: of them those without which there is nothing.

    Raises:
        MissingFileError: no such file.
        InputError: no table, or a column that there is not.
    """
    return _described(_read(source, columns, needed), kind, made, needed)


def _described(
    given: Rows, kind: type[_T], made: Callable[[Mapping[str, Any], Path], _T], needed: Sequence[str]
) -> list[_T | Refused]:
    def of(row: Any, folder: Path, place: str) -> _T | Refused:
        if isinstance(row, kind):
            return row
        if isinstance(row, Refused):
            return Refused(place, row.reason)
        if not isinstance(row, Mapping):
            return Refused(place, f"a row is a table of values by column, got {shown(row)}")
        try:
            return made(row, folder)
        except SdkError as error:
            name = row.get("name") or row.get(needed[0])
            if not isinstance(name, str):
                return Refused(place, str(error))
            return Refused(printable(f"{place}, {shown_address(name) if is_address(name) else name}"), str(error))

    return [of(row, given.folder, f"row {number}") for number, row in enumerate(given.rows, start=1)]


def _read(source: Any, columns: Sequence[str], needed: Sequence[str]) -> Rows:
    folder, rows = Path(), source
    if isinstance(source, (str, Path)):
        folder, rows = Path(source).absolute().parent, _rows(Path(source), columns, needed)
    try:
        return Rows(folder, list(rows))
    except TypeError:
        raise InputError(f"give a table's file or a list of rows, got {shown(source)}") from None


def _rows(file: Path, columns: Sequence[str], needed: Sequence[str]) -> Iterator[Any]:
    if file.suffix.lower() not in _FORMATS:
        raise InputError(f"{file} is no table; give a file that ends with {', '.join(_FORMATS)}")
    content = read_bytes(file, limit=_LARGEST, what="table", advice="check the path of the table")

    def check(names: Iterable[str]) -> None:
        _check_columns(file, list(names), columns, needed)

    if file.suffix.lower() == ".csv":
        yield from _csv(file, content, check)
    elif file.suffix.lower() == ".jsonl":
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield _value(line, f"line {number} of {file}")
    else:
        yield from _parquet(file, content, check)


def _value(line: bytes, name: str) -> Any:
    """A line's value; one that cannot be read is a row that is wrong."""
    try:
        return parse_json(line, name, advice="write a JSON object in each line")
    except InputError as error:
        return Refused(name, str(error))


def _csv(file: Path, content: bytes, check: Callable[[Iterable[str]], None]) -> Iterator[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restkey="more cells")
        check(reader.fieldnames or ())
        yield from reader
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no CSV in UTF-8 ({error}); save it again") from error


def _parquet(file: Path, content: bytes, check: Callable[[Iterable[str]], None]) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is no Parquet file, or a damaged one; write it again") from error
    check(table.column_names)
    yield from table.to_pylist()


def _check_columns(file: Path, there: list[str], columns: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a whole table whose columns are wrong: every row would be."""
    if len(set(there)) < len(there):
        raise InputError(f"{file} has a column twice; columns are {', '.join(columns)}")
    strange = next((name for name in there if name not in columns), None)
    if strange is not None:
        raise InputError(f"{file} has a column {shown(strange)}; columns are {', '.join(columns)}")
    missing = next((name for name in needed if name not in there), None)
    if missing is not None:
        raise InputError(f"{file} has no column {missing}; columns are {', '.join(columns)}")
