"""What the benchmark asks of a method: kinds of reference pictures, and how many there are of each.

``two`` and ``three`` concepts of different classes; ``same-class``, two objects of one class; ``similar``, two of one
class and colour, which differ in accent or pattern. All are of reserved identities, as in
:mod:`sdk.miniworld.references`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .references import SPLITS, reference_scene, reserved_object
from .scene import Scene, Vocabulary, arrange


@dataclass(frozen=True)
class Task:
    """A kind of reference picture.

    Attributes:
        concepts: in a scene.
        scenes: of the ``"test"`` split.
        one_class: the concepts are of one class, so a method has to be told which is which, by masks.
        one_colour: and of one colour.
    """

    concepts: int
    scenes: int
    one_class: bool = False
    one_colour: bool = False


TASKS = {
    "two": Task(2, 20),
    "three": Task(3, 16),
    "same-class": Task(2, 12, one_class=True),
    "similar": Task(2, 12, one_class=True, one_colour=True),
}


def task_scene(task: str, split: str, index: int) -> Scene:
    """Return a scene of a task; the same arguments give the same scene everywhere.

    Args:
        task: one of :data:`TASKS`.
        split: ``"test"``, or ``"tune"`` to choose settings on.
        index: of the scene.

    Raises:
        ValueError: no such task or split.
    """
    if task not in TASKS or split not in SPLITS:
        raise ValueError(f"{task!r} and {split!r} must be one of {', '.join(TASKS)} and one of {', '.join(SPLITS)}")
    kind = TASKS[task]
    if not kind.one_class:
        return reference_scene(split, index, kind.concepts)
    vocabulary = Vocabulary()
    rng = random.Random(f"{task} {split} {index}")
    noun = rng.choice(vocabulary.classes)
    while True:
        objects = [reserved_object(rng, noun, vocabulary) for _ in range(kind.concepts)]
        first, second = objects
        if (first.colour == second.colour) == kind.one_colour and (first.accent, first.pattern) != (
            second.accent,
            second.pattern,
        ):
            return arrange(rng, objects, rng.choice(vocabulary.backgrounds))
