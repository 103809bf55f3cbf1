"""Packs as ``.onnx_adapter`` files: K and V weights, token rows, and what the pack is called and belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from ..concepts import MAX_CONCEPTS, Concept, stated_concepts
from ..disk.checked import Fail, Table
from ..disk.files import reporting_full_disk, whole_file
from ..disk.learned import check_finite, check_key_value, check_low_rank, check_type
from ..disk.reading import MANIFEST_LIMIT, as_path, open_regular, parse_json
from ..errors import OutputError, PackError, SdkError
from ..model.fingerprint import BaseIdentity
from ..printable import printable
from ..rights import Statement

VERSION = 1
ROWS, ABOUT = "token_rows", "personalizer.json"


_LARGEST = 4 << 30  # bytes
_AGAIN = "write it again"
_KEY = re.compile(r"(?P<layer>.+\.attn2)\.to_(?P<which>[kv])\.(?P<part>weight|down|up)")


@dataclass(frozen=True, repr=False, eq=False)
class Adapter:
    """A pack in a deployed model.

    Attributes:
        concepts: with their tokens.
        rows: embeddings of the tokens, ``[MAX_CONCEPTS, C]``, zero behind the concepts.
        weights: K and V by parameter name: weights ``[hidden, context]``, or changes of low rank, ``....to_k.down``
            ``[r, context]`` and ``....to_k.up`` ``[hidden, r]``.
        base: the pack's base model.
        statement: the pack's hash, licence and consent, where its file says so.
    """

    concepts: list[Concept]
    rows: np.ndarray
    weights: dict[str, np.ndarray]
    base: BaseIdentity
    statement: Statement = Statement()

    def __repr__(self) -> str:
        names = ", ".join(c.phrase for c in self.concepts)
        return printable(f"Adapter({names}; {len(self.weights)} weights on {self.base.name})")


def write_adapter(
    path: Path,
    concepts: list[Concept],
    rows: np.ndarray,
    weights: dict,
    base: dict[str, Any],
    statement: Statement,
) -> None:
    """Write an adapter; float16 as a pack is, one row of zeros for each concept that is missing to the most."""
    table = np.zeros((MAX_CONCEPTS, rows.shape[1]), rows.dtype)
    table[: len(rows)] = rows
    values = {ROWS: table, **{name: np.ascontiguousarray(w) for name, w in weights.items()}}
    about = {
        "version": VERSION,
        "sha256": _digest(values),
        "concepts": [{"token": c.token, "class": c.noun} for c in concepts],
        "base_model": base,
        "pack": statement.to_dict(),
    }
    stored = values | {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in stored.items()})
    with whole_file(path) as whole:
        adapter.export_adapter(str(whole))


def check_adapter_file(file: Path) -> None:
    """Raise :class:`OutputError` if a path is none for an adapter: a folder, a device, a file of another kind."""
    with reporting_full_disk(file.parent):
        if not file.name or file.is_dir():
            raise OutputError(f"{file} is a folder; give a file for the adapter, such as pack.onnx_adapter")
        if not file.exists():
            return
        if not file.is_file():
            raise OutputError(f"{file} is no regular file; give another name for the adapter")
    try:
        read_adapter(file)
    except SdkError as error:
        raise OutputError(f"{file} is a file of another kind; give another name for the adapter") from error


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter.

    Raises:
        MissingFileError: no such file.
        PackError: damaged, of another version, or no adapter of a pack.
        NotFiniteError: it holds values that are no numbers.
    """
    file = as_path(path, "adapter")

    def fail(reason: str) -> PackError:
        return PackError(f"{file} is damaged ({reason}); {_AGAIN}")

    values = _stored(file)
    if ABOUT not in values or ROWS not in values:
        raise PackError(f"{file} is an adapter of another program; write one by pack.export_adapter(file)")
    stated = values.pop(ABOUT)
    if stated.nbytes > MANIFEST_LIMIT:
        raise fail(f"it says {stated.nbytes} bytes about itself")
    about = Table(parse_json(stated.tobytes(), file, kind=PackError, advice=_AGAIN), fail)
    version = about.whole("version", 0, 1 << 31)
    if version != VERSION:
        raise PackError(f"{file} has version {version}, this one reads {VERSION}; {_AGAIN}")
    if _digest(values) != about.text("sha256", 64):
        raise fail("its hash does not match")
    concepts = stated_concepts(about.tables("concepts", MAX_CONCEPTS), fail)
    if not concepts:
        raise fail("it names no concepts")
    base = BaseIdentity.from_dict(about.plain("base_model"), fail)
    rows = values.pop(ROWS)
    if rows.shape != (MAX_CONCEPTS, base.context):
        raise fail(f"{ROWS} has shape {list(rows.shape)}, not {[MAX_CONCEPTS, base.context]}")
    check_type(ROWS, rows, fail)
    _check_weights(values, base, fail)
    check_finite(file, [(ROWS, rows), *values.items()])
    return Adapter(concepts, rows, values, base, Statement.read(about))


def _stored(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an adapter's file."""
    advice = "write one by pack.export_adapter(file)"
    open_regular(file, limit=_LARGEST, what="adapter", kind=PackError, advice=advice).close()
    try:
        opened = onnxruntime.AdapterFormat.read_adapter(str(file))
        # Copied: the arrays are views of the file's memory, which goes with `opened`.
        return {name: np.array(value.numpy()) for name, value in opened.get_parameters().items()}
    except Exception as error:  # ONNX Runtime has a dozen kinds, and a file may hold types that numpy does not have
        raise PackError(f"{file} is damaged or no adapter; {_AGAIN}") from error


def _check_weights(weights: Mapping[str, np.ndarray], base: BaseIdentity, fail: Fail) -> None:
    """Check K and V: whole, or as changes of low rank."""
    layers: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, weight in weights.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise fail(f"it holds an unknown array {name!r}")
        layers.setdefault(match["layer"], {}).setdefault(match["which"], {})[match["part"]] = weight
    pairs = {}
    for layer, found in layers.items():
        if set(found) != {"k", "v"}:
            raise fail(f"it lacks K or V of {layer}")
        pairs[layer] = (_shape(layer, found["k"], base, fail), _shape(layer, found["v"], base, fail))
    check_key_value(pairs, base.fingerprint.keys(), base.context, fail)


def _shape(layer: str, parts: dict[str, np.ndarray], base: BaseIdentity, fail: Fail) -> Any:
    """A weight, or something of the shape of what two factors make."""
    if set(parts) == {"weight"}:
        return parts["weight"]
    if set(parts) != {"down", "up"}:
        raise fail(f"{layer} has {' and '.join(sorted(parts))} of K or V, not a weight or two factors")
    check_low_rank(layer, parts["down"], parts["up"], base.context, fail)
    return SimpleNamespace(shape=(parts["up"].shape[0], parts["down"].shape[1]))


def _digest(values: dict[str, np.ndarray]) -> str:
    """Hash of names, types, shapes and contents, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        value = np.ascontiguousarray(values[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
