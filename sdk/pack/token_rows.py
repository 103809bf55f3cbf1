"""Tokens of a pack as textual-inversion files: one row, or one for each text encoder of the base model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, cat

from ..disk.checked import Fail
from ..disk.learned import check_row
from ..families import load_family
from ..model.fingerprint import BaseIdentity


def token_tensors(token: str, row: Tensor, base: BaseIdentity) -> dict[str, Tensor]:
    """Return what a token's file holds: ``{"<new1>": [C]}``, or ``{"clip_l": [1, C], "clip_g": [1, C]}`` of SDXL."""
    if not base.widths:
        return {token: row.clone()}
    keys = load_family(base.family).token_keys
    return {key: part[None].clone() for key, part in zip(keys, row.split(base.widths), strict=True)}


def row_of(tensors: Mapping[str, Tensor], token: str, base: BaseIdentity, file: str, fail: Fail) -> Tensor:
    """Return a token's embedding ``[C]`` out of what its file holds.

    Args:
        tensors: by key.
        token: whose file it is.
        base: the base model.
        file: its name, for messages.
        fail: makes the error.
    """
    if not base.widths:
        if set(tensors) != {token}:
            raise fail(f"{file} does not hold {token}")
        check_row(token, tensors[token], base.context, fail)
        return tensors[token]
    keys = load_family(base.family).token_keys if base.family else ()
    if set(tensors) != set(keys):
        raise fail(f"{file} does not hold {' and '.join(keys)}, a row of {token} for each text encoder")
    rows = []
    for key, width in zip(keys, base.widths, strict=True):
        if tuple(tensors[key].shape) != (1, width):
            raise fail(f"{key} of {token} has shape {list(tensors[key].shape)}, not [1, {width}]")
        check_row(token, tensors[key][0], width, fail)
        rows.append(tensors[key][0])
    return cat(rows)
