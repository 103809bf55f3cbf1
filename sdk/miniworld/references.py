"""Reference pictures for personalisation: scenes of reserved identities, which no training has shown.

``"test"`` scenes are the benchmark, ``"tune"`` scenes are for choosing settings; :mod:`sdk.miniworld.tasks` has more
kinds of them. The same name and index give the same picture everywhere.
"""

from __future__ import annotations

import dataclasses
import random

from PIL import Image

from .renderer import render
from .scene import Scene, SceneObject, Vocabulary, arrange, is_reserved, sample_object

SPLITS = ("tune", "test")


def reference_scene(split: str, index: int, concepts: int = 2, vocabulary: Vocabulary | None = None) -> Scene:
    """Return a reference scene of ``concepts`` objects with reserved identities and distinct colours."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    vocabulary = vocabulary or Vocabulary()
    rng = random.Random(f"reference {split} {concepts} {index}")
    nouns = rng.sample(vocabulary.classes, concepts)
    while True:
        objects = [reserved_object(rng, noun, vocabulary) for noun in nouns]
        if len({o.colour for o in objects}) == concepts and len({o.accent for o in objects}) == concepts:
            return arrange(rng, objects, rng.choice(vocabulary.backgrounds))


def demo_scene() -> Scene:
    """Return the scene of the demo picture: a cat and a dog, both of reserved identities."""
    objects = [SceneObject("cat", "purple", "yellow"), SceneObject("dog", "white", "red", "spotted")]
    assert all(is_reserved(o.identity) for o in objects)
    return arrange(random.Random(7), objects, "grass")


def demo_picture() -> Image.Image:
    """Return the demo picture, 64x64."""
    return render(demo_scene())[0]


def reserved_object(rng: random.Random, noun: str, vocabulary: Vocabulary) -> SceneObject:
    """Draw an object of a class without a hat, of an identity that no training has shown."""
    while True:
        candidate = dataclasses.replace(sample_object(rng, noun, vocabulary), hat=False)
        if is_reserved(candidate.identity):
            return candidate
