"""What a prompt lets expect of a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..concepts import Concept, tokens_in


@dataclass(frozen=True)
class Expected:
    """What a prompt lets expect of a pack's concepts, by their places in the pack.

    Attributes:
        there: named by their tokens: each must be there and be the one that was learned.
        once: those of them whose class the prompt names once: no second one may be there.
        absent: whose class the prompt does not name: no such thing may be there.
    """

    there: tuple[int, ...]
    once: tuple[int, ...]
    absent: tuple[int, ...]


def expected(prompt: str, concepts: Sequence[Concept]) -> Expected:
    """Read off a prompt what its picture should show.

    Args:
        prompt: such as ``"a <new1> cat on the beach"``.
        concepts: of the pack.
    """
    written = tokens_in(prompt)
    counts = [len(re.findall(rf"\b{re.escape(c.noun)}\b", prompt, re.IGNORECASE)) for c in concepts]
    there = tuple(i for i, c in enumerate(concepts) if c.token in written)
    return Expected(
        there,
        once=tuple(i for i in there if counts[i] == 1),
        absent=tuple(i for i, count in enumerate(counts) if not count),
    )
