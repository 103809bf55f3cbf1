"""What a library tells of a pack."""

from __future__ import annotations

from typing import Any


def described(pack: Any) -> dict[str, Any]:
    """Return it for a pack of either engine."""
    stated = pack.statement
    return {
        "concepts": [{"token": concept.token, "noun": concept.noun} for concept in pack.concepts],
        "licence": stated.licence,
        "consent": stated.consent,
    }
