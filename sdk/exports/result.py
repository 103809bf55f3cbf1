"""What an export returns, whatever the format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..disk.file_names import kept_name
from ..disk.files import prepare_output_folder, write_bytes
from ..disk.learned import check_finite
from ..errors import OutputError
from ..pack import MANIFEST

if TYPE_CHECKING:
    from torch import Tensor

MARK = {"personalizer": "export"}  # in the header of every file, by which a later export knows it
_HINT = "the tokens are in files of their own"  # of exports of earlier versions


@dataclass(frozen=True)
class Export:
    """What was written, and how it is used.

    Attributes:
        paths: files or folders, the main one first.
        usage: lines for a person: what loads it.
        prompts: what to type, by tool, where that differs from the pack's own prompt.
        figures: measured while writing, by name: errors, ranks.
    """

    paths: list[Path]
    usage: list[str] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


def default_name(folder: str | Path) -> str:
    """Return a pack folder's name as files and prompts can hold it."""
    return kept_name(Path(folder).resolve().name)


def claim(folder: str | Path, names: Sequence[str]) -> Path:
    """Return the folder of an export, made if it is missing, in which these files may be written.

    Raises:
        OutputError: it cannot be written, holds a pack, or under one of the names a file that is no earlier export.
    """
    destination = prepare_output_folder(folder)
    if (destination / MANIFEST).exists():
        raise OutputError(f"{destination} holds a pack; give another folder for the export")
    for name in names:
        file = destination / name
        if os.path.lexists(file) and not _earlier_export(file):
            raise OutputError(f"{file} is no file of an earlier export; move it away, or give another folder or name")
    return destination


def _earlier_export(file: Path) -> bool:
    """Whether a file was written by an export: it says so in its header."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
    except (SafetensorError, OSError):  # something else, which stays
        return False
    return MARK.items() <= about.items() or about.get("modelspec.usage_hint", "").endswith(_HINT)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        NotFiniteError: a value that is no number, or became too large for its type.
        OutputError: the file cannot be written.
    """
    from ..pack import tensor_file

    check_finite("the export", tensors.items())
    write_bytes(path, tensor_file(tensors, metadata | MARK))
