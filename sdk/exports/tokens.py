"""A pack's tokens as textual inversions, one file each."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..disk.files import write_bytes
from ..model.fingerprint import BaseIdentity
from ..pack import ConceptPack, token_tensors
from .result import MARK


def rows_of(row: Tensor, base: BaseIdentity) -> dict[str, Tensor]:
    """Return a token as tools take it that call it by its file's name: ``emb_params``, or a row for each encoder."""
    return {"emb_params": row[None].clone()} if not base.widths else token_tensors("", row, base)


def export_tokens(pack: ConceptPack, folder: Path) -> list[Path]:
    """Write one textual-inversion file per token, which diffusers' ``load_textual_inversion`` takes."""
    for name, content in pack.token_files(**MARK).items():
        write_bytes(folder / name, content)
    return [folder / name for name in pack.token_files()]
