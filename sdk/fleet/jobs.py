"""One fit of a fleet: what is asked for, and an id made of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..concepts import resolve_concepts
from ..config import FitConfig
from ..disk.reading import parse_json, read_bytes
from ..errors import ImageError, InputError
from ..images.image_io import folder_hash
from ..methods import check_method
from ..printable import printable
from ..rules.arguments import path, shown, text, whole
from ..version import __version__
from .storage import is_address, read_address, shown_address

COLUMNS = ("image", "concepts", "masks", "method", "preset", "settings", "seed", "name")
_LARGEST_FILE = 256 << 20  # bytes of a picture, as everywhere
_SEPARATOR = ";"
_DIGITS = 24  # of an id: 96 bits, so that no two of a billion jobs share one


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fit of a fleet.

    Attributes:
        image: the reference picture's path, or an address that fsspec reaches (``s3://...``).
        concepts: class nouns, such as ``("cat", "dog")``.
        masks: likewise, white where a concept is, one per concept; empty: found by attention.
        method: see :meth:`sdk.Personalizer.fit`.
        preset: of the method.
        settings: changes of the preset and of what comes with the base model, as in a configuration file.
        seed: of everything random.
        name: what reports call it; default the picture's file name.

    Raises:
        InputError: a value of another type, an unknown method, preset or setting, a noun that cannot be one.
    """

    image: str | Path
    concepts: Sequence[str]
    masks: Sequence[str | Path] = ()
    method: str = "disendiff"
    preset: str = "best"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        path(self.image, "image")
        resolve_concepts(self.concepts)
        if isinstance(self.masks, (str, Path)) or not isinstance(self.masks, Sequence):
            raise InputError(f"masks must be a list of paths, got {shown(self.masks)}")
        for mask in self.masks:
            path(mask, "a mask")
        check_method(text(self.method, "method"))
        whole(self.seed, "seed", 0, 2**63 - 1)
        text(self.name, "name")
        if not isinstance(self.settings, Mapping) or not all(isinstance(key, str) for key in self.settings):
            raise InputError(f"settings must be a table of names and values, got {shown(self.settings)}")
        FitConfig.from_dict(dict(self.settings), self.method)  # an unknown name shows here
        FitConfig.preset(text(self.preset, "preset"), self.method, **self.settings)

    @property
    def shown(self) -> str:
        """What reports call it."""
        if self.name or not is_address(self.image):
            return printable(self.name or Path(self.image).name)
        return shown_address(str(self.image)).rpartition("/")[2]


def job_of(row: Mapping[str, Any], folder: Path) -> Job:
    """Return the job that a row of a table describes; empty cells are defaults.

    Args:
        row: values by column. Concepts and masks are lists, or texts with semicolons between; settings are a table,
            or JSON.
        folder: of the table, to which relative paths belong.

    Raises:
        InputError: no picture, no concepts, an unknown column, or a value that cannot be one.
    """
    given = {name: v for name, v in row.items() if v is not None and not (isinstance(v, str) and not v)}
    strange = [name for name in given if name not in COLUMNS]
    if strange:
        raise InputError(f"there is no column {shown(strange[0])}; columns are {', '.join(COLUMNS)}")
    for name in ("image", "concepts"):
        if name not in given:
            raise InputError(f"the row has no {name}; every fit needs a picture and its concepts")
    made: dict[str, Any] = given | {"image": placed(given["image"], folder, "image")}
    for name in ("concepts", "masks"):
        if isinstance(given.get(name), str):
            made[name] = tuple(part.strip() for part in given[name].split(_SEPARATOR))
    if isinstance(made.get("masks"), (list, tuple)):
        made["masks"] = tuple(placed(mask, folder, "a mask") for mask in made["masks"])
    if isinstance(given.get("settings"), str):
        made["settings"] = parse_json(given["settings"].encode(), "the JSON of settings", advice="correct the row")
    if isinstance(given.get("seed"), str):
        made["seed"] = whole_number(given["seed"])
    return Job(**made)


def placed(source: Any, folder: Path, name: str) -> str | Path:
    """A path from its table's folder; an address as it is."""
    return str(source) if is_address(source) else folder / path(source, name)


def whole_number(digits: str) -> int:
    """The seed that a cell states."""
    try:
        return int(digits)
    except ValueError:
        raise InputError(f"seed must be a whole number, got {shown(digits)}") from None


def contents(job: Job) -> list[bytes]:
    """Return the files of a job's picture and masks.

    Raises:
        MissingFileError: no such picture or mask.
        ImageError: a file that cannot be read.
    """
    return [_content(file) for file in (job.image, *job.masks)]


def _content(file: str | Path) -> bytes:
    if is_address(file):
        return read_address(str(file), _LARGEST_FILE)
    return read_bytes(file, limit=_LARGEST_FILE, what="picture", kind=ImageError, advice="check the job's row")


def job_id(job: Job, base: Mapping[str, str], files: Sequence[bytes] | None = None) -> str:
    """Return the id of a job: hexadecimal digits, another one wherever another pack is asked for.

    The number of threads is not in it, which changes last bits alone.

    Args:
        job: what is asked for.
        base: :func:`sdk.fit.whole.whole_identity` of the model, and the kind of device.
        files: :func:`contents` of the job; default read now, one after the other.

    Raises:
        MissingFileError: no such picture or mask.
        ImageError: a file that cannot be read.
    """
    read = (_content(file) for file in (job.image, *job.masks)) if files is None else iter(files)
    hashes = [hashlib.sha256(each).hexdigest() for each in read]
    parts = {
        "version": __version__,
        "base": dict(base),
        "image": hashes[0],
        "masks": hashes[1:],
        "concepts": list(job.concepts),
        "method": job.method,
        "preset": job.preset,
        "settings": dict(job.settings),
        "seed": int(job.seed),
    }
    prior = job.settings.get("prior")
    if prior not in (None, "generate", "none"):
        parts["prior pictures"] = folder_hash(prior)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]
