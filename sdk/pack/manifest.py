"""Reading a pack's folder: every name, type, shape and hash is checked here, and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..concepts import MAX_CONCEPTS, Concept, stated_concepts
from ..disk.checked import Fail, Table, shown
from ..disk.file_names import is_plain_name
from ..disk.reading import as_path, open_regular, read_bytes, read_json
from ..errors import ImageError, MissingFileError, PackError
from ..images.image_io import read_reference
from ..model.fingerprint import BaseIdentity
from .layout import (
    FORMAT_VERSION,
    LATER_VERSION,
    LORA,
    MANIFEST,
    MOST_FILES,
    REFERENCE,
    TOKEN_LIMIT,
    UNET,
    WEIGHTS,
    file_limit,
)
from .tensors import read_tensors
from .token_rows import row_of
from .weights_file import read_key_value

_AGAIN = "fit or copy the pack again"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read ``personalizer.json`` of a pack; what it says of the concepts and the base model is not checked yet.

    Raises:
        MissingFileError: no such folder, or it holds no pack.
        PackError: unreadable, incomplete, or of a later format.
    """
    path = as_path(folder, "pack")
    try:
        found = path.is_dir()
    except OSError as error:
        raise PackError(f"the pack {path} cannot be read: {error.strerror or error}; check its name") from error
    if not found:
        raise MissingFileError(f"there is no pack at {path}; give the folder that a fit wrote")
    file = path / MANIFEST
    try:
        manifest = read_json(file, kind=PackError, advice=_AGAIN)
    except MissingFileError as error:
        raise MissingFileError(f"{path} holds no {MANIFEST}; give the folder that a fit wrote") from error
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise PackError(f"{file} is damaged (it states no format); {_AGAIN}")
    version = manifest["format_version"]
    if version not in (FORMAT_VERSION, LATER_VERSION) or isinstance(version, bool):
        raise PackError(
            f"the pack {path} has format {shown(version)}, this version reads {FORMAT_VERSION} and {LATER_VERSION}; "
            "update the package"
        )
    missing = {"method", "base_model", "concepts", "files", "settings", "provenance"} - manifest.keys()
    if missing:
        raise PackError(f"{file} lacks {', '.join(sorted(missing))}; {_AGAIN}")
    return manifest


def read_parts(folder: str | Path) -> dict[str, Any]:
    """Return the arguments of a :class:`ConceptPack` out of its folder, everything but finiteness checked.

    Raises:
        MissingFileError: no such folder, or it holds no pack.
        PackError: damaged, incomplete, or of a later format.
    """
    path = as_path(folder, "pack")

    def fail(reason: str) -> PackError:
        return PackError(f"the pack {path} is damaged: {reason}; {_AGAIN}")

    manifest = read_manifest(path)
    about = Table(manifest, fail)
    entries = about.tables("concepts", MAX_CONCEPTS)
    concepts = stated_concepts(entries, fail)
    if not concepts:
        raise fail("it names no concepts")
    files = [_token_file(entry, concept, fail) for entry, concept in zip(entries, concepts, strict=True)]
    if len(set(files)) < len(files):
        raise fail("two concepts share a file")
    contents = _contents(path, about.table("files"), files, fail)
    held = [name for name in (WEIGHTS, LORA) if name in contents]
    if len(held) != 1:
        raise fail(f"its files hold {' and '.join(held) or 'neither'} of {WEIGHTS} and {LORA}, not one of them")
    base = BaseIdentity.from_dict(manifest["base_model"], fail)
    rows = [_row(contents, file, c.token, base, fail) for file, c in zip(files, concepts, strict=True)]
    tensors = read_tensors(contents[held[0]], _within(held[0], fail))
    return {
        "concepts": concepts,
        "base": base,
        "key_value": read_key_value(held[0], tensors, base, fail),
        "embeddings": torch.stack([row.float() for row in rows]),
        "unet": read_tensors(contents[UNET], _within(UNET, fail)) if UNET in contents else {},
        "method": about.text("method", 64),
        "settings": about.plain("settings"),
        "provenance": about.plain("provenance"),
        "reference": _reference(contents[REFERENCE], path) if REFERENCE in contents else None,
    }


def _contents(folder: Path, files: Table, tokens: Sequence[str], fail: Fail) -> dict[str, bytes]:
    """The files that are used, by name; all that the manifest lists are as they were written."""
    contents = {}
    for name in files.names(MOST_FILES):
        digest = files.text(name, 64)
        if not is_plain_name(name):
            raise PackError(f"the pack {folder} refers to {name!r} outside itself; do not use it")
        limit = TOKEN_LIMIT if name in tokens else file_limit(name)
        try:
            if name in (WEIGHTS, LORA, UNET, REFERENCE, *tokens):
                data = contents[name] = read_bytes(folder / name, limit=limit, kind=PackError, advice=_AGAIN)
                found = hashlib.sha256(data).hexdigest()
            else:
                with open_regular(folder / name, limit=limit, kind=PackError, advice=_AGAIN) as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except MissingFileError as error:
            raise PackError(f"the pack {folder} lacks {name}; {_AGAIN}") from error
        except OSError as error:
            raise PackError(f"{folder / name} cannot be read: {error.strerror or error}; {_AGAIN}") from error
        if found != digest:
            raise PackError(f"{folder / name} is damaged (its hash does not match); {_AGAIN}")
    return contents


def _token_file(entry: Table, concept: Concept, fail: Fail) -> str:
    """Where a concept's embedding is; packs of the first versions do not say so and name files after tokens."""
    if "file" not in entry:
        return f"{concept.token.strip('<>')}.safetensors"
    name = entry.text("file", 128)
    if not is_plain_name(name) or name in (WEIGHTS, LORA, UNET, REFERENCE):
        raise fail(f"{name!r} is no file of a token")
    return name


def _row(contents: Mapping[str, bytes], file: str, token: str, base: BaseIdentity, fail: Fail) -> Tensor:
    if file not in contents:
        raise fail(f"its files lack {file}")
    return row_of(read_tensors(contents[file], _within(file, fail)), token, base, file, fail)


def _reference(content: bytes, folder: Path) -> Image.Image:
    try:
        return read_reference(content, str(folder / REFERENCE))
    except ImageError as error:
        raise PackError(str(error)) from error


def _within(name: str, fail: Fail) -> Fail:
    return lambda reason: fail(f"{name}: {reason}")
