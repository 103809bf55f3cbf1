"""The page that goes with a pack: ``README.md``, in the form that the Hub and people read (a model card)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concepts import Concept
from ..printable import printable
from ..rights import Statement
from ..rules.drawing import shown_name

CARD = "README.md"
_LIBRARIES = 20  # that are listed
_MARK = "Content SHA-256: `"


@dataclass(frozen=True)
class Described:
    """What the page tells of a pack.

    Attributes:
        concepts: with their tokens.
        base: name of the base model.
        method: that learned it.
        prompt: that names every concept.
        settings: of the fit.
        provenance: where the pack comes from.
        statement: its hash, licence and consent.
        pictured: whether the reference picture is in the folder.
    """

    concepts: Sequence[Concept]
    base: str
    method: str
    prompt: str
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    statement: Statement
    pictured: bool


def card(pack: Described) -> str:
    """Return the page: what the pack is, how each tool uses it, what it was made from, and what may be done with it."""
    names = ", ".join(_code(c.phrase) for c in pack.concepts)
    stated = pack.statement
    lines = [
        "---",
        *_header(pack, stated.licence),
        "---",
        "",
        f"# {_plain(', '.join(c.noun for c in pack.concepts))}",
        "",
    ]
    lines += [
        f"A concept pack: {names}, learned with the Personalizer SDK from one picture by the method "
        f"{_code(pack.method)} for the base model {_code(shown_name(pack.base))}.",
        "",
        "## Use",
        "",
        f"- write {_code(pack.prompt)}, or the same words in another scene",
        "- Personalizer SDK: `personalizer generate FOLDER --prompt ... --output pictures`; in Python "
        "`Personalizer.from_pretrained(base).generate(prompt, concepts=ConceptPack.from_pretrained(folder))`",
        "- A1111, Forge, ComfyUI: `personalizer export FOLDER --format webui --output DIR` prints the words to type",
        "- diffusers: `--format lora` or `--format diffusers`; ONNX Runtime without torch: `--format onnx`",
        "- `personalizer verify FOLDER` checks every file and lists what loads it",
        "",
        "## Made from",
        "",
        *(f"- {line}" for line in _origin(pack)),
        "",
        "## Rights",
        "",
        f"- licence: {_plain(stated.licence or 'none stated; ask whoever made the pack')}",
        f"- consent of whoever is shown: {_plain(stated.consent or 'none stated')}",
        "- the base model has a licence of its own, which goes on to hold",
        "",
        f"{_MARK}{pack.statement.content}`",
        "",
    ]
    return "\n".join(lines)


def is_card(content: bytes) -> bool:
    """Whether a page was made by :func:`card`, and not by a person."""
    return _MARK.encode() in content


def _header(pack: Described, licence: str | None) -> list[str]:
    """Fields that the Hub reads; values in JSON, which is YAML too."""
    fields: dict[str, Any] = {"pipeline_tag": "text-to-image"}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", pack.base):  # as the Hub names models
        fields["base_model"] = pack.base
    fields |= {"tags": ["personalization", "text-to-image", pack.method], "instance_prompt": pack.prompt}
    if licence:
        # The Hub knows licences by identifiers; anything else is a name.
        known = re.fullmatch(r"[a-z0-9.+-]{1,40}", licence)
        fields |= {"license": licence} if known else {"license": "other", "license_name": licence}
    return [f"{name}: {json.dumps(value)}" for name, value in fields.items()]


def _origin(pack: Described) -> list[str]:
    found = pack.provenance
    lines = []
    if "seed" in found:
        lines.append(f"one fit, seed {_plain(found['seed'])}, {_plain(pack.settings.get('steps', '?'))} steps")
    if isinstance(found.get("parts"), list):
        lines.append(f"{len(found['parts'])} packs, merged")
    if "file" in found:
        lines.append(f"the file {_code(found['file'])} of another program")
    versions = found.get("libraries")
    if isinstance(versions, dict):
        few = list(versions.items())[:_LIBRARIES]
        lines.append(", ".join(f"{_plain(name)} {_plain(version)}" for name, version in few))
    lines.append(
        "the picture is in the folder as `reference.png`" if pack.pictured else "no picture is kept in the folder"
    )
    return lines


def _plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", _line(text))


def _code(text: object) -> str:
    """Text as Markdown shows code."""
    shown = _line(text).replace("`", "'")
    return f"`{shown}`"


def _line(text: object) -> str:
    """Text of a file as one line, without terminal codes, at most 500 characters."""
    return printable(" ".join(str(text).split()), 500)
