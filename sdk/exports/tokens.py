"""A pack's tokens as textual inversions, one file each."""

from __future__ import annotations

from pathlib import Path

from ..disk.files import write_bytes
from ..pack import ConceptPack
from .result import MARK


def export_tokens(pack: ConceptPack, folder: Path) -> list[Path]:
    """Write one textual-inversion file per token, which diffusers' ``load_textual_inversion`` takes."""
    for name, content in pack.token_files(**MARK).items():
        write_bytes(folder / name, content)
    return [folder / name for name in pack.token_files()]
