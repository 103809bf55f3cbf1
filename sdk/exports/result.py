"""What an export returns, whatever the format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


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
    """Return a pack folder's name as prompts can hold it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(folder).resolve().name).strip("-") or "pack"
