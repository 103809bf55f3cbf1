"""Packs that come over the network: nothing of them is trusted before the pack's own reader has seen it."""

from __future__ import annotations

import errno
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ...disk.file_names import is_plain_name
from ...errors import PackError, SdkError
from ..described import described, without_path
from ..drawing.painter import Painter

_MOST_FILES = 64
_READ = 1 << 20
# What Python's reader raises; RuntimeError: encrypted or patched members, and formats of later versions than it reads.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack(archive: Path, folder: Path, most: int) -> None:
    """Write the files of a pack's zip into a new folder; they lie at its top, or all in one folder.

    Args:
        archive: the zip file.
        folder: made here.
        most: bytes that all files together may have.

    Raises:
        PackError: no zip file, a damaged one, or one that holds what no pack does.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [each for each in opened.infolist() if not each.is_dir()]
            if not 0 < len(files) <= _MOST_FILES:
                raise PackError(f"the zip file holds {len(files)} files, a pack 1 to {_MOST_FILES}; zip its folder")
            tops = {each.filename.rpartition("/")[0] for each in files}
            if len(tops) > 1 or any(top and not is_plain_name(top.replace(" ", "_")) for top in tops):
                raise PackError("the zip file holds several folders; zip the pack's folder alone")
            folder.mkdir()
            for each in files:
                name = each.filename.rpartition("/")[2]
                if not is_plain_name(name) or each.flag_bits & 1 or each.compress_type not in _KINDS:
                    raise PackError(f"the zip file holds {name!r}, which no pack does; zip the pack's folder")
                most = _copied(opened, each, folder / name, most)
    except PackError:
        raise
    except (*_DAMAGED, OSError) as error:
        # Numbers in a damaged file lead before its beginning; any other error of the system is the disk's.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EEXIST):
            raise
        raise PackError("what was sent is no zip file of a pack, or damaged; zip the pack's folder") from error


def _copied(opened: zipfile.ZipFile, each: zipfile.ZipInfo, file: Path, most: int) -> int:
    """Write one file; return how many bytes are left."""
    with opened.open(each) as source, file.open("xb") as target:
        while part := source.read(_READ):
            most -= len(part)
            if most < 0:
                raise PackError("the zip file holds more than a request may; export the pack smaller")
            target.write(part)
    return most


def keep(painter: Painter, sent: Path, place: Path, most: int) -> dict[str, Any]:
    """Put what was sent where the library wants it, if it is a pack of this model; return what is told of it.

    Args:
        painter: whose packs they are.
        sent: the file.
        place: where it goes.
        most: bytes that a zip file's files may have.

    Raises:
        PackError: it is none.
    """
    if painter.suffix:
        shutil.copyfile(sent, place)
    else:
        unpack(sent, place, most)
    try:
        pack = painter.read_pack(place)
    except SdkError as error:  # where things are here is nobody's business there
        raise PackError(without_path(error, place, "what was sent")) from error
    return described(pack)
