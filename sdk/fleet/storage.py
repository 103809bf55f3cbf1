"""Where a fleet's outputs go: a folder, or whatever fsspec reaches (``s3:``, ``gs:``, ``az:``, ``memory:``, ...).

Files are whole or absent: in a folder by renaming, in object storage because an object appears when all of it is there.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ..disk.file_names import is_plain_name
from ..disk.files import as_path, prepare_output_folder, write_bytes
from ..errors import InputError, MissingFileError, OutputError
from ..printable import printable

_T = TypeVar("_T")
_UNKNOWN = (ImportError, ValueError, TypeError)  # of an address: no such kind, not installed, or more is to be said
# What talks to S3, HTTP, Google's and Microsoft's storage raises beside OSError.
_OF_LIBRARIES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
_PROBE = ".personalizer-probe"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|(file|memory):", re.IGNORECASE)


def is_address(place: object) -> bool:
    """Whether a text is an address such as ``s3://bucket/name``, not a path of this machine."""
    return isinstance(place, str) and _ADDRESS.match(place) is not None


def _refusals(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What storage that does not answer raises: the system's errors, and those of the libraries that are loaded."""
    loaded = ((sys.modules.get(module), name) for module, name in _OF_LIBRARIES)
    return OSError, *more, *(getattr(module, name) for module, name in loaded if hasattr(module, name))


def shown_address(place: str) -> str:
    """Return an address to be shown: without who asks, and without what a signed one is signed with."""
    kind, mark, rest = place.partition("://")
    rest = re.split(r"[?#]", rest if mark else kind, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    shown = f"{host.rpartition('@')[2]}{slash}{path}"
    return printable(f"{kind}{mark}{shown}" if mark else shown)


def _said(error: Exception, place: str) -> str:
    """What a file system says, without the address that it says it of."""
    said = str(error).replace(place, shown_address(place))
    return printable(re.sub(r"\?\S*", "", said), 200)


class Storage:
    """A place for files by name; names have slashes between folders.

    Args:
        place: a folder's path, or an address.
        writes: whether anything will be written there; then that is tried.

    Attributes:
        place: as given.
        local: the folder, if it is one of this machine.

    Raises:
        OutputError: it cannot be written to, or there is no such kind of storage.
    """

    def __init__(self, place: str | Path, writes: bool = True) -> None:
        self.place = str(place)
        self.local: Path | None = None
        self._files: Any = None
        self._root = ""
        if is_address(place):
            self._files, self._root = _opened(self.place)
        if self._files is None:
            folder = as_path(self._root or self.place)
            self.local = (prepare_output_folder(folder) if writes else folder).absolute()
        elif writes:
            self.write(_PROBE, b"")
            self.remove(_PROBE)

    @property
    def of_this_process(self) -> bool:
        """Whether nobody else sees what is written (``memory:``)."""
        return self._files is not None and "memory" in _kinds(self._files)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, ``None`` if it is not there."""
        if self.local is not None:
            file = self.local / name
            try:
                return file.read_bytes() if file.is_file() else None
            except OSError as error:
                raise OutputError(f"cannot read {file}: {error.strerror}; let it be read, or remove it") from error
        try:
            return self._asked(self._files.cat_file, self._at(name))
        except FileNotFoundError:
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those files that are there, by name."""
        wanted = list(names)
        if self.local is not None or not wanted:
            found = {name: self.read(name) for name in wanted}
            return {name: data for name, data in found.items() if data is not None}
        at = {self._at(name).strip("/"): name for name in wanted}
        there: dict[str, bytes] = self._asked(self._files.cat, [self._at(name) for name in wanted], on_error="omit")
        return {at[path.strip("/")]: data for path, data in there.items()}

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        if self.local is not None:
            return (self.local / name).is_file()
        return bool(self._asked(self._files.isfile, self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or put another one in its place."""
        if self.local is not None:
            (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.local / name, data)
            return
        if self.of_this_process:  # object storage has no folders
            self._asked(self._files.makedirs, self._at(name).rpartition("/")[0], exist_ok=True)
        try:
            self._asked(self._files.pipe_file, self._at(name), data)
        except FileNotFoundError as error:
            raise OutputError(
                f"cannot reach {shown_address(self.place)}: it is not there; check the address"
            ) from error

    def names(self, folder: str) -> set[str]:
        """Return the names of the files that are directly in a folder."""
        if self.local is not None:
            there = self.local / folder
            return {each.name for each in there.iterdir() if each.is_file()} if there.is_dir() else set()
        return self._listed(folder, "file")

    def folders(self, folder: str) -> set[str]:
        """Return the names of the folders that are directly in a folder."""
        if self.local is not None:
            there = self.local / folder
            return {each.name for each in there.iterdir() if each.is_dir()} if there.is_dir() else set()
        return self._listed(folder, "directory")

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
            return
        try:
            self._asked(self._files.rm_file, self._at(name))
        except FileNotFoundError:
            return

    def _listed(self, folder: str, kind: str) -> set[str]:
        self._files.invalidate_cache()  # listings are kept, and others write here
        try:
            found = self._asked(self._files.ls, self._at(folder), detail=True)
        except FileNotFoundError:
            return set()
        return {each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == kind}

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _asked(self, function: Callable[..., _T], *given: Any, **options: Any) -> _T:
        """What the file system answers; its errors in one sentence."""
        try:
            return function(*given, **options)
        except FileNotFoundError:
            raise
        except NotImplementedError as error:
            raise OutputError(
                f"{shown_address(self.place)} is of a kind that cannot be written; give a folder or a bucket"
            ) from error
        except _refusals() as error:
            raise OutputError(
                f"cannot reach {shown_address(self.place)}: {_said(error, self.place)}; check it and the rights to it"
            ) from error


def read_address(place: str, limit: int) -> bytes:
    """Return the content of a file that fsspec reaches.

    Args:
        place: its address.
        limit: the most bytes that it may have.

    Raises:
        MissingFileError: nothing is there.
        InputError: it cannot be reached, or is larger.
    """
    shown = shown_address(place)
    try:
        files, name = _found(place)
        size = files.size(name)
        if size is not None and size > limit:
            raise InputError(f"{shown} has {size} bytes, and at most {limit} are read; give a smaller file")
        with files.open(name, "rb") as file:
            data = file.read(limit + 1)
    except InputError:  # a ValueError, too
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no {shown}; check the row") from error
    except _refusals(*_UNKNOWN) as error:
        raise InputError(
            f"cannot read {shown}: {_said(error, place)}; check the row, and that what reaches it is installed"
        ) from error
    if len(data) > limit:
        raise InputError(f"{shown} has more than {limit} bytes; give a smaller file")
    return data


def fetch_folder(place: str, folder: Path, limit: Callable[[str], int]) -> None:
    """Copy the files that are directly in a folder at an address; names that no file of ours has stay behind.

    Args:
        place: its address.
        folder: for the files.
        limit: the most bytes of a file, by its name.

    Raises:
        MissingFileError: nothing is there.
        InputError: it cannot be reached, or a file is larger.
    """
    there = Storage(place, writes=False).names("")
    if not there:
        raise MissingFileError(f"there is nothing at {shown_address(place)}; check the row")
    for name in sorted(there):
        if is_plain_name(name):
            (folder / name).write_bytes(read_address(f"{place.rstrip('/')}/{name}", limit(name)))


def packed(folder: Path, names: Iterable[str]) -> bytes:
    """Return files of a folder as one object, so that they arrive together or not at all."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            if (folder / name).is_file():
                archive.add(folder / name, arcname=name, recursive=False)
    return made.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Write what :func:`packed` put together into a folder that is made for it.

    Raises:
        InputError: it is something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            archive.extractall(folder, filter="data")  # nothing outside the folder, no links, no devices
    except tarfile.TarError as error:
        raise InputError(f"a checkpoint in the output is damaged ({printable(error)}); remove it") from error


def _opened(place: str) -> tuple[Any, str]:
    """The file system of an address, ``None`` if it is this machine's, and the path there."""
    try:
        files, root = _found(place)
    except _refusals(*_UNKNOWN) as error:
        raise OutputError(
            f"cannot reach {shown_address(place)}: {_said(error, place)}; check it, and install what reaches it, such "
            "as s3fs"
        ) from error
    root = root.rstrip("/")
    return (None, root) if "file" in _kinds(files) else (files, root)


def _found(place: str) -> tuple[Any, str]:
    import fsspec

    kind, _, rest = place.partition(":")
    return fsspec.core.url_to_fs(place if rest.startswith("//") else f"{kind}://{rest}")


def _kinds(files: Any) -> tuple[str, ...]:
    kinds = files.protocol
    return (kinds,) if isinstance(kinds, str) else tuple(kinds)
