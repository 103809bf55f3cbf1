"""Captions beside pictures, as people save them."""

from __future__ import annotations

from pathlib import Path

from ..disk.reading import read_text
from ..errors import InputError

_LONGEST = 2000  # characters; models read some 300


def read_caption(path: str | Path) -> str:
    """Return the caption in a text file, in one line; an empty file has none.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.

    Raises:
        MissingFileError: no such file.
        InputError: another encoding, a text of extraordinary length, or no regular file.
    """
    text = " ".join(read_text(path, what="caption", advice="check its path").split())
    if len(text) > _LONGEST:
        raise InputError(f"the caption {path} has {len(text)} characters; write at most {_LONGEST}")
    return text
