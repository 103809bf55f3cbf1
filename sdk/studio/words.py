"""How people write of what a model has learned: "my cat" instead of "a <new1> cat"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..concepts import Concept

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def names_of(concepts: Sequence[Concept]) -> list[str]:
    """Return a name for each concept: ``my cat``; of two dogs ``my first dog``, ``my second dog``."""
    nouns = [concept.noun.lower() for concept in concepts]
    names = []
    for index, noun in enumerate(nouns):
        alike = nouns.count(noun) > 1
        names.append(f"my {_ORDINALS[nouns[:index].count(noun)]} {noun}" if alike else f"my {noun}")
    return names


def to_prompt(text: str, concepts: Sequence[Concept]) -> str:
    """Return a prompt as the model reads it: each name, in small or capital letters, becomes its concept's phrase."""
    phrases = {name: f"a {concept.phrase}" for name, concept in zip(names_of(concepts), concepts, strict=True)}
    if not phrases:
        return text
    longest_first = sorted(phrases, key=len, reverse=True)
    pattern = r"(?<!\w)(?:" + "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first) + r")(?!\w)"
    return re.sub(pattern, lambda found: phrases[" ".join(found[0].lower().split())], text, flags=re.IGNORECASE)
