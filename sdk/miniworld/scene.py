"""What a scene of the drawn world is made of, and how scenes are drawn at random.

A scene holds one to three objects of different classes in front of a background. Everything that can be
seen is an attribute of the scene, so a picture comes with exact labels. Two attributes never appear in
any caption: an object's ``accent`` colour (ears and paws, roof, cabin; also stripes and spots) and its
exact place. An identity (class, colour, accent, pattern) is therefore something that only a learned
token can name, which is what personalisation is measured on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CLASSES = ("cat", "dog", "car", "house", "bird", "tree")
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (245, 205, 40),
    "green": (30, 140, 55),
    "blue": (45, 85, 215),
    "purple": (140, 60, 175),
    "white": (252, 252, 252),
    "orange": (245, 130, 30),
    "pink": (250, 150, 190),
}
PATTERNS = ("plain", "striped", "spotted")
BACKGROUNDS = {
    "beach": "on the beach",
    "snow": "in the snow",
    "night": "at night",
    "grass": "on the grass",
}
SIZES = ("small", "medium", "big")
STYLES = ("drawn", "sketch")
MAX_OBJECTS = 3


@dataclass(frozen=True)
class SceneObject:
    """One object. ``x`` is its centre and ``width`` its extent, both as a fraction of the picture."""

    noun: str
    colour: str
    accent: str
    pattern: str = "plain"
    size: str = "medium"
    hat: bool = False
    x: float = 0.5
    y: float = 0.9
    width: float = 0.6
    flipped: bool = False

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Class, colour, accent and pattern: what makes this object this object."""
        return self.noun, self.colour, self.accent, self.pattern


@dataclass(frozen=True)
class Scene:
    """Objects from left to right, where they are and how they are drawn."""

    objects: tuple[SceneObject, ...]
    background: str
    style: str = "drawn"


@dataclass(frozen=True)
class Vocabulary:
    """The part of the world that a model is trained on, with the frequency of its rarer attributes.

    Attributes:
        alike: share of the scenes of several objects in which two are of one class.
    """

    classes: tuple[str, ...] = CLASSES
    colours: tuple[str, ...] = tuple(COLOURS)
    patterns: tuple[str, ...] = PATTERNS
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    object_counts: tuple[float, float, float] = (0.3, 0.4, 0.3)
    patterned: float = 0.5
    hat: float = 0.15
    sketch: float = 0.08
    scaled: float = 0.05
    alike: float = 0.0


def is_held_out(noun: str, colour: str, background: str) -> bool:
    """Whether this class, colour and background are never shown together in training (one colour in six)."""
    index = 2 * CLASSES.index(noun) + list(BACKGROUNDS).index(background)
    return list(COLOURS).index(colour) % 6 == index % 6


def is_held_out_sketch(noun: str, pattern: str) -> bool:
    """Whether sketches of this class in this pattern are never shown in training (one pattern in three)."""
    return PATTERNS.index(pattern) == 1 + CLASSES.index(noun) % 2


def is_reserved(identity: tuple[str, str, str, str]) -> bool:
    """Whether this identity is kept for personalisation and never shown in training (one in six)."""
    noun, colour, accent, pattern = identity
    colours = list(COLOURS)
    index = CLASSES.index(noun) + colours.index(colour) + 2 * colours.index(accent) + 3 * PATTERNS.index(pattern)
    return index % 6 == 0


# Per number of objects: the slots' centres and baselines, and the range of widths. Objects are as large as fits, so
# that each covers many 16x16 map cells; of three, the middle one stands farther back, on the horizon.
_LAYOUTS = {
    1: (((0.5, 0.9),), (0.56, 0.74)),
    2: (((0.25, 0.9), (0.75, 0.9)), (0.42, 0.48)),
    3: (((0.23, 0.94), (0.5, 0.53), (0.77, 0.94)), (0.37, 0.41)),
}


def _place(rng: random.Random, count: int) -> list[tuple[float, float, float, str]]:
    """Centres, baselines, widths and size words of ``count`` objects that do not hide one another."""
    slots, (low, high) = _LAYOUTS[count]
    placed = []
    for centre, baseline in slots:
        width = rng.uniform(low, high)
        slack = max(0.02, 0.5 / min(count, 2) - width / 2 - 0.03)
        size = SIZES[min(2, int(3 * (width - low) / (high - low)))]
        placed.append((centre + rng.uniform(-slack, slack), baseline + rng.uniform(-0.04, 0.04), width, size))
    return placed


def sample_object(rng: random.Random, noun: str, vocabulary: Vocabulary) -> SceneObject:
    """Draw an object's looks; its place is set by :func:`sample_scene`."""
    colour, accent = rng.sample(vocabulary.colours, 2)
    patterned = len(vocabulary.patterns) > 1 and rng.random() < vocabulary.patterned
    pattern = rng.choice(vocabulary.patterns[1:]) if patterned else "plain"
    return SceneObject(noun, colour, accent, pattern, hat=rng.random() < vocabulary.hat)


def arrange(rng: random.Random, objects: list[SceneObject], background: str, style: str = "drawn") -> Scene:
    """Put given objects into a scene, left to right in the given order, at random places."""
    placed = [
        SceneObject(o.noun, o.colour, o.accent, o.pattern, size, o.hat, x, y, width, rng.random() < 0.5)
        for o, (x, y, width, size) in zip(objects, _place(rng, len(objects)), strict=True)
    ]
    return Scene(tuple(placed), background, style)


def sample_scene(rng: random.Random, vocabulary: Vocabulary, *, split: str = "train") -> Scene:
    """Draw a scene.

    Args:
        rng: source of randomness; the same state gives the same scene.
        vocabulary: what may appear.
        split: ``"train"`` leaves out every held-out combination and reserved identity; ``"held_out"`` has
            only objects of held-out combinations; ``"all"`` knows no bounds.
    """
    count = rng.choices((1, 2, 3), weights=vocabulary.object_counts)[0]
    return sample_scene_of(rng, vocabulary, count, split=split)


def sample_scene_of(rng: random.Random, vocabulary: Vocabulary, count: int, *, split: str = "train") -> Scene:
    """Draw a scene of exactly ``count`` objects; see :func:`sample_scene`."""
    background = rng.choice(vocabulary.backgrounds)
    nouns = rng.sample(vocabulary.classes, count)
    if count > 1 and vocabulary.alike and rng.random() < vocabulary.alike:
        nouns[rng.randrange(1, count)] = nouns[0]
    style = "sketch" if rng.random() < vocabulary.sketch else "drawn"
    objects = []
    for noun in nouns:
        while True:
            candidate = sample_object(rng, noun, vocabulary)
            held_out = (
                is_held_out_sketch(noun, candidate.pattern)
                if style == "sketch"
                else is_held_out(noun, candidate.colour, background)
            )
            if split == "all" or (split == "held_out" and held_out):
                break
            if split == "train" and not held_out and not is_reserved(candidate.identity):
                break
        objects.append(candidate)
    return arrange(rng, objects, background, style)
