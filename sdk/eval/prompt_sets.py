"""Prompts to measure with: for photographs ten sets after DisenDiff's evaluation (its section 4.2), in our own words.

A set belongs to two classes and has about ten prompts for both together and for each alone; concepts of other classes
get prompts that fit anything. The drawn world has its own, :mod:`sdk.miniworld.world_prompts`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from ..concepts import Concept, join_phrases

# For any class; {} is what is asked for.
_ANYTHING = (
    "photo of {}",
    "{} at a beach with a view of the seashore",
    "{} on snowy ground",
    "{} in times square",
    "a watercolor painting of {}",
    "a painting of {} in the style of Van Gogh",
    "{} in a forest",
    "{} at night",
    "a manga drawing of {}",
    "{} in front of a brick wall",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt with learned tokens, the same in plain words, and what it asks for.

    Attributes:
        learned: ``"a <new1> cat on the beach"``.
        plain: ``"a cat on the beach"``.
        asked: indices of the concepts it names.
        background: the drawn world's background that it names, if any.
    """

    learned: str
    plain: str
    asked: tuple[int, ...]
    background: str | None = None


@lru_cache(maxsize=1)
def photograph_sets() -> dict[str, dict[str, list[str]]]:
    """Return the ten sets by name: ``nouns``, ``together``, ``1`` and ``2``; ``{1}`` and ``{2}`` are the concepts."""
    return json.loads(files("sdk.eval").joinpath("photographs.json").read_text(encoding="utf-8"))


def photograph_prompts(concepts: Sequence[Concept], count: int = 10) -> list[Prompt]:
    """Return up to ``count`` prompts for each concept alone and, if there are several, for all together."""
    nouns = [c.noun for c in concepts]
    for entry in photograph_sets().values():
        if entry["nouns"] == nouns:
            kinds = [((0,), entry["1"]), ((1,), entry["2"]), ((0, 1), entry["together"])]
            return [_filled(text, asked, concepts) for asked, texts in kinds for text in texts[:count]]
    asked_for: list[tuple[int, ...]] = [(i,) for i in range(len(concepts))]
    if len(concepts) > 1:
        asked_for.append(tuple(range(len(concepts))))
    prompts = []
    for asked in asked_for:
        named = join_phrases([f"a {{{i + 1}}}" for i in asked])
        prompts += [_filled(text.replace("{}", named), asked, concepts) for text in _ANYTHING[:count]]
    return prompts


def _filled(text: str, asked: tuple[int, ...], concepts: Sequence[Concept]) -> Prompt:
    learned = plain = text
    for index, concept in enumerate(concepts, start=1):
        learned = learned.replace(f"{{{index}}}", concept.phrase)
        plain = plain.replace(f"{{{index}}}", concept.noun)
    return Prompt(learned, plain, asked)
