"""What an export returns, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..disk.file_names import kept_name
from ..disk.files import write_bytes
from ..disk.learned import check_finite

if TYPE_CHECKING:
    from torch import Tensor


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


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        NotFiniteError: a value that is no number, or became too large for its type.
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save

    check_finite("the export", tensors.items())
    write_bytes(path, save(tensors, metadata=metadata))
