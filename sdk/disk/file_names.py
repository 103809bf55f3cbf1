"""The one place that names files: never by the text of a user or of a file.

A concept's files are named by its position, whatever its token is called; what a user gives as a name keeps letters
and digits. So no name leaves its folder, meets another one's or means a device.
"""

from __future__ import annotations

import re

from ..errors import InputError
from ..printable import printable

LONGEST_NAME = 64
_KEPT = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,126}")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)  # of Windows, with any suffix


def concept_word(index: int) -> str:
    """Return how files call the concept at a position, counted from 0: ``new1``, ``new2``, ..."""
    return f"new{index + 1}"


def token_file_name(index: int) -> str:
    """Return the file of a concept's token embedding: ``new1.safetensors``."""
    return f"{concept_word(index)}.safetensors"


def mask_name(index: int) -> str:
    """Return the file of a concept's mask: ``mask-new1.png``."""
    return f"mask-{concept_word(index)}.png"


def kept_name(text: object, default: str = "pack") -> str:
    """Return what of a text can be a file's name and a word of a prompt: letters, digits, ``-`` and ``_``, at most 64.

    Args:
        text: anything, such as a folder's name.
        default: taken if nothing is left.
    """
    name = "-".join(_KEPT.findall(str(text)))[:LONGEST_NAME].strip("-") or default
    return f"{default}-{name}" if _DEVICES.fullmatch(name) else name


def check_name(name: object) -> str:
    """Return a name that a user chose for files.

    Raises:
        InputError: one that is no file name everywhere.
    """
    if not isinstance(name, str) or kept_name(name) != name:
        raise InputError(
            f"the name {printable(name, 80)!r} goes into prompts and file names; use at most {LONGEST_NAME} letters, "
            f"digits, - and _, such as {kept_name(name)!r}"
        )
    return name


def is_plain_name(name: object) -> bool:
    """Whether a name that a file states is one of a file in the same folder, on every system."""
    return isinstance(name, str) and bool(_PLAIN.fullmatch(name)) and not _DEVICES.fullmatch(name)


def is_inner_path(name: object) -> bool:
    """Whether a path that a file states stays below its folder: plain names joined by ``/``."""
    return isinstance(name, str) and len(name) < 400 and all(is_plain_name(part) for part in name.split("/"))
