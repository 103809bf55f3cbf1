"""What is told of a pack, and what of where it lies is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def described(pack: Any) -> dict[str, Any]:
    """Return it for a pack of either engine."""
    stated = pack.statement
    return {
        "concepts": [{"token": concept.token, "noun": concept.noun} for concept in pack.concepts],
        "licence": stated.licence,
        "consent": stated.consent,
    }


def without_path(error: Exception, path: Path, name: str) -> str:
    """Return an error's sentence with a name for a path of this machine, which is nobody's business elsewhere."""
    return str(error).replace(str(path), name)
