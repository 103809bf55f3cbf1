"""Packs as ``.onnx_adapter`` files: K and V weights, token rows, and what the pack is called and belongs to."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..concepts import MAX_CONCEPTS, Concept
from ..errors import MissingFileError, PackError
from ..files import reporting_full_disk
from ..model.fingerprint import BaseIdentity

VERSION = 1
ROWS, ABOUT = "token_rows", "personalizer.json"


@dataclass(frozen=True)
class Adapter:
    """A pack in a deployed model.

    Attributes:
        concepts: with their tokens.
        rows: embeddings of the tokens, ``[MAX_CONCEPTS, C]``, zero behind the concepts.
        weights: K and V weights by parameter name, ``[hidden, context]``.
        base: the pack's base model.
    """

    concepts: list[Concept]
    rows: np.ndarray
    weights: dict[str, np.ndarray]
    base: BaseIdentity


def write_adapter(path: Path, concepts: list[Concept], rows: np.ndarray, weights: dict, base: dict[str, Any]) -> None:
    """Write an adapter; float16 as a pack is, one row of zeros for each concept that is missing to the most."""
    table = np.zeros((MAX_CONCEPTS, rows.shape[1]), rows.dtype)
    table[: len(rows)] = rows
    values = {ROWS: table, **{name: np.ascontiguousarray(w) for name, w in weights.items()}}
    about = {
        "version": VERSION,
        "sha256": _digest(values),
        "concepts": [{"token": c.token, "class": c.noun} for c in concepts],
        "base_model": base,
    }
    stored = values | {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in stored.items()})
    with reporting_full_disk(path), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        adapter.export_adapter(str(whole))
        whole.replace(path)


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter.

    Raises:
        MissingFileError: no such file.
        PackError: damaged, of another version, or no adapter of a pack.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"there is no adapter {file}; write one by pack.export_adapter(file)")
    try:
        opened = onnxruntime.AdapterFormat.read_adapter(str(file))
        # Copied: the arrays are views of the file's memory, which goes with `opened`.
        values = {name: np.array(value.numpy()) for name, value in opened.get_parameters().items()}
    except (RuntimeError, ValueError, OSError) as error:
        raise PackError(f"{file} is damaged or no adapter; write it again") from error
    if ABOUT not in values or ROWS not in values:
        raise PackError(f"{file} is an adapter of another program; write one by pack.export_adapter(file)")
    try:
        about = json.loads(bytes(values.pop(ABOUT)))
        version, digest = about["version"], about["sha256"]
        concepts = [Concept(c["class"], c["token"]) for c in about["concepts"]]
        base = BaseIdentity.from_dict(about["base_model"])
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(f"{file} is damaged; write it again") from error
    if version != VERSION:
        raise PackError(f"{file} has version {version}, this one reads {VERSION}; write it again")
    if _digest(values) != digest:
        raise PackError(f"{file} is damaged (its hash does not match); write it again")
    return Adapter(concepts, values.pop(ROWS), values, base)


def _digest(values: dict[str, np.ndarray]) -> str:
    """Hash of names, types, shapes and contents, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        value = np.ascontiguousarray(values[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
