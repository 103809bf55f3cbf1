"""Captions of scenes: what a person might write, with attributes often left out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..data.augmentation import ENLARGED_PREFIXES, SHRUNK_PREFIXES
from .scene import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SIZES, Scene, SceneObject

WORDS = sorted(
    {"a", "and", "photo", "of", "the", "with", "wearing", "hat", "sketch", "next", "to"}
    | {word for phrase in (*BACKGROUNDS.values(), *SHRUNK_PREFIXES, *ENLARGED_PREFIXES) for word in phrase.split()}
    | set(CLASSES)
    | set(COLOURS)
    | set(PATTERNS)
    | set(SIZES)
)


@dataclass(frozen=True)
class Caption:
    """A caption, and for each of its words which object of the scene it describes (``-1`` for none)."""

    text: str
    owners: tuple[int, ...]


def describe_object(item: SceneObject, rng: random.Random, *, keep: float = 0.75, coloured: bool = True) -> str:
    """Name an object: ``"small striped red cat with a hat"``, each attribute kept with probability ``keep``.

    A sketch is not ``coloured``: its captions leave out what cannot be seen.
    """
    words = []
    if item.size != "medium" and rng.random() < 0.3 * keep:
        words.append(item.size)
    if item.pattern != "plain" and rng.random() < keep:
        words.append(item.pattern)
    if coloured and rng.random() < keep:
        words.append(item.colour)
    words.append(item.noun)
    if item.hat and rng.random() < keep:
        words.append(rng.choice(("with a hat", "wearing a hat")))
    return " ".join(words)


def write_caption(scene: Scene, rng: random.Random, *, prefix: str = "", keep: float = 0.75) -> Caption:
    """Write a caption.

    Args:
        scene: what is in the picture.
        rng: decides the order of the objects, the opening words and what is left out.
        prefix: words of the scale augmentation, put in front.
        keep: probability of mentioning each attribute and the background.
    """
    order = list(range(len(scene.objects)))
    rng.shuffle(order)
    sketch = scene.style == "sketch"
    article = "a " if rng.random() < 0.5 else ""
    opening = "sketch of a" if sketch else "photo of a" if prefix or rng.random() < 0.5 else "a"
    joint = "next to a" if len(order) == 2 and rng.random() < 0.2 else f"and {article}".strip()
    parts = [(f"{prefix} {opening}".strip(), -1)]
    for place, index in enumerate(order):
        if place:
            parts.append((joint, -1))
        parts.append((describe_object(scene.objects[index], rng, keep=keep, coloured=not sketch), index))
    if not sketch and rng.random() < keep:
        parts.append((BACKGROUNDS[scene.background], -1))
    owners = [owner for words, owner in parts for _ in words.split()]
    return Caption(" ".join(words for words, _ in parts), tuple(owners))
