"""What a pack says of itself wherever it goes: its hash, its licence, and that whoever is shown agreed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .disk.checked import Table
from .errors import InputError
from .printable import printable

RIGHTS = ("licence", "consent")
LONGEST = 300  # characters of a statement


@dataclass(frozen=True)
class Statement:
    """What goes along with a pack: into merged packs and exports; hash and licence into pictures, too.

    Attributes:
        content: SHA-256 of what was learned.
        licence: under which it may be used, such as ``"CC-BY-4.0"``.
        consent: of whoever is shown, or of the owner of what is shown.
    """

    content: str | None = None
    licence: str | None = None
    consent: str | None = None

    @classmethod
    def of(cls, content: str, provenance: Mapping[str, Any]) -> Statement:
        """Return the statement of a pack with this content hash and provenance."""
        return cls(content, *(_shown(provenance.get(name)) for name in RIGHTS))

    @classmethod
    def read(cls, about: Table) -> Statement:
        """Return the statement in a file's table; files of earlier versions have none."""
        if "pack" not in about:
            return cls()
        table = about.table("pack")
        found = {name: table.text(name, LONGEST) for name in ("content", *RIGHTS) if table.values.get(name) is not None}
        return cls(**found)

    def to_dict(self) -> dict[str, str]:
        """Return what is stated, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def stated_rights(licence: object = None, consent: object = None) -> dict[str, str]:
    """Return what a user states about a pack that is made, by name; what is ``None`` is not stated.

    Raises:
        InputError: no text, an empty one, one of several lines or of more than 300 characters.
    """
    found = {}
    for name, text in zip(RIGHTS, (licence, consent), strict=True):
        if text is None:
            continue
        if not isinstance(text, str) or not text.strip() or printable(text, LONGEST) != text:
            raise InputError(f"the {name} must be one line of text, at most {LONGEST} characters, such as 'CC-BY-4.0'")
        found[name] = text.strip()
    return found


def joined_rights(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what several packs state, each statement once, and whether some state nothing."""
    found = {}
    for name in RIGHTS:
        said = [_shown(provenance.get(name)) for provenance in provenances]
        stated = list(dict.fromkeys(each for each in said if each))
        if stated:
            text = "; ".join([*stated, *(["not stated for every part"] if None in said else [])])
            found[name] = printable(text, LONGEST)
    return found


def _shown(value: object) -> str | None:
    return printable(value, LONGEST) if isinstance(value, str) and value.strip() else None
