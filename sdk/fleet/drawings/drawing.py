"""One picture of many: what is asked for, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...disk.reading import MANIFEST_LIMIT, read_bytes
from ...errors import InputError, PackError
from ...pack import MANIFEST
from ...printable import printable
from ...rules.arguments import path, shown, text, whole
from ...serve.drawing.painter import How
from ...version import __version__
from ..jobs import placed, whole_number
from ..storage import is_address, read_address

COLUMNS = ("prompt", "pack", "negative_prompt", "seed", "name")
PICTURES = "pictures"  # folder in the output
_DIGITS = 24  # of an id


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture of many.

    Attributes:
        prompt: what to draw.
        pack: a pack's folder, or an address that fsspec reaches; empty: the plain base model.
        negative_prompt: what to steer away from.
        seed: of its noise.
        name: what reports call it; default the prompt.

    Raises:
        InputError: a value of another type.
    """

    prompt: str
    pack: str = ""
    negative_prompt: str = ""
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "pack", "negative_prompt", "name"):
            text(getattr(self, name), name)
        whole(self.seed, "seed", 0, 2**63 - 1)

    @property
    def shown(self) -> str:
        """What reports call it."""
        return printable(self.name or self.prompt)


@dataclass(frozen=True)
class Drawn:
    """What came of one picture.

    Attributes:
        name: what reports call it.
        status: ``"done"`` or ``"failed"``.
        reason: of a failure, one sentence.
        picture: where it is, relative to the output.
        prompt: what was drawn.
        pack: as the row gave it.
        negative_prompt: likewise.
        seed: of its noise.
        id: of picture, pack, base model and how it was drawn.
    """

    name: str
    status: str
    reason: str
    picture: str
    prompt: str
    pack: str
    negative_prompt: str
    seed: int
    id: str


def drawing_of(row: Mapping[str, Any], folder: Path) -> Drawing:
    """Return the picture that a row of a table describes; empty cells are defaults.

    Raises:
        InputError: no prompt, an unknown column, or a value that cannot be one.
    """
    given = {name: v for name, v in row.items() if v is not None and not (isinstance(v, str) and not v)}
    strange = [name for name in given if name not in COLUMNS]
    if strange:
        raise InputError(f"there is no column {shown(strange[0])}; columns are {', '.join(COLUMNS)}")
    if "prompt" not in given:
        raise InputError("the row has no prompt; every picture needs one")
    if "pack" in given:
        given["pack"] = str(placed(given["pack"], folder, "pack"))
    if isinstance(given.get("seed"), str):
        given["seed"] = whole_number(given["seed"])
    return Drawing(**given)


def outcome(row: Drawing, id: str, reason: str = "") -> Drawn:
    """Return what came of a picture: it is there, or why it is not."""
    status, picture = ("failed", "") if reason else ("done", f"{PICTURES}/{id}.png")
    return Drawn(row.shown, status, reason, picture, row.prompt, row.pack, row.negative_prompt, row.seed, id)


def pack_mark(pack: str) -> str:
    """Return what tells a pack from others: a hash of its manifest, which holds those of its files.

    Raises:
        MissingFileError: there is no such pack.
        InputError: it cannot be read.
    """
    if not pack:
        return ""
    if is_address(pack):
        data = read_address(f"{pack.rstrip('/')}/{MANIFEST}", MANIFEST_LIMIT)
    else:
        file = path(pack, "pack") / MANIFEST
        data = read_bytes(file, limit=MANIFEST_LIMIT, what="pack", kind=PackError, advice="check the row's pack")
    return hashlib.sha256(data).hexdigest()


def drawing_id(row: Drawing, mark: str, base: Mapping[str, str], how: How) -> str:
    """Return the id of a picture: another one wherever another picture is asked for.

    The other rows of its batch are not in it, which change last bits alone.
    """
    parts: dict[str, Any] = {"version": __version__, "base": dict(base), "pack": mark, "how": asdict(how)}
    parts |= {"prompt": row.prompt, "negative prompt": row.negative_prompt, "seed": row.seed}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
