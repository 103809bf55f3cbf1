"""The drawn world: exact masks, honest captions, and splits that keep their promise."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sdk.miniworld.captions import WORDS, write_caption
from sdk.miniworld.references import demo_scene, reference_scene
from sdk.miniworld.renderer import render
from sdk.miniworld.scene import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    Scene,
    SceneObject,
    Vocabulary,
    is_held_out,
    is_reserved,
    sample_scene,
)
from sdk.miniworld.tasks import TASKS, task_scene

EVERYTHING = Vocabulary(hat=0.3, sketch=0.2)


@pytest.mark.parametrize("noun", CLASSES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_class_shows_its_colours_inside_its_mask(noun, pattern):
    item = SceneObject(noun, "red", "blue", pattern, x=0.5, y=0.95, width=0.7)
    image, masks = render(Scene((item,), "snow"))
    inside = np.asarray(image)[masks[0]].astype(int)
    assert masks.shape == (1, 64, 64)
    assert 0.08 < masks.mean() < 0.6
    for name in ("red", "blue"):
        share = (np.abs(inside - COLOURS[name]).max(1) < 40).mean()
        assert share > 0.01, name
    empty, _ = render(Scene((SceneObject(noun, "red", "blue", x=-3.0),), "snow"))
    outside = ~masks[0]
    # Anti-aliased edges may differ by half a pixel outside the mask, nothing more.
    different = (np.abs(np.asarray(image).astype(int) - np.asarray(empty).astype(int)).max(2) > 130) & outside
    assert different.sum() == 0


def test_masks_do_not_overlap():
    a = SceneObject("cat", "red", "blue", x=0.45, y=0.9, width=0.5)
    b = SceneObject("dog", "green", "white", x=0.55, y=0.95, width=0.5)
    _, masks = render(Scene((a, b), "beach"))
    assert not (masks[0] & masks[1]).any()
    assert masks[0].any()


def test_patterns_accessories_and_styles_can_be_seen():
    base = SceneObject("cat", "red", "blue", x=0.5, y=0.95, width=0.7)
    pictures = [np.asarray(render(Scene((base,), "grass", style))[0]).tobytes() for style in ("drawn", "sketch")]
    for change in ({"pattern": "striped"}, {"pattern": "spotted"}, {"hat": True}, {"flipped": True}):
        item = SceneObject(**(base.__dict__ | change))
        pictures.append(np.asarray(render(Scene((item,), "grass"))[0]).tobytes())
    pictures += [np.asarray(render(Scene((base,), b))[0]).tobytes() for b in BACKGROUNDS if b != "grass"]
    assert len(set(pictures)) == len(pictures)


def test_captions_name_what_is_there_and_own_their_words():
    rng = random.Random(0)
    orders = set()
    lengths = set()
    for _ in range(500):
        scene = sample_scene(rng, EVERYTHING)
        written = write_caption(scene, rng)
        words = written.text.split()
        assert len(words) == len(written.owners)
        assert set(words) <= set(WORDS)
        for word, owner in zip(words, written.owners, strict=True):
            if owner >= 0:
                item = scene.objects[owner]
                assert word in (item.noun, item.colour, item.pattern, item.size, "with", "wearing", "a", "hat")
            else:
                assert word not in CLASSES
        assert "accent" not in words
        named = [o for o in dict.fromkeys(written.owners) if o >= 0]
        assert sorted(named) == list(range(len(scene.objects)))
        orders.add(tuple(named))
        lengths.add(len(words))
    assert {(0, 1), (1, 0)} <= orders
    assert max(lengths) > min(lengths) + 5


def test_splits_keep_apart():
    rng = random.Random(0)
    for _ in range(400):
        scene = sample_scene(rng, Vocabulary(sketch=0.0))
        for item in scene.objects:
            assert not is_held_out(item.noun, item.colour, scene.background)
            assert not is_reserved(item.identity)
        held_out = sample_scene(rng, Vocabulary(sketch=0.0), split="held_out")
        assert all(is_held_out(o.noun, o.colour, held_out.background) for o in held_out.objects)


def test_reference_scenes_are_reserved_and_reproducible():
    seen = set()
    for split in ("tune", "test"):
        for index in range(20):
            scene = reference_scene(split, index)
            assert scene == reference_scene(split, index)
            assert all(is_reserved(o.identity) for o in scene.objects)
            seen.add(scene)
    assert len(seen) == 40
    assert len(reference_scene("test", 0, concepts=3).objects) == 3


@pytest.mark.parametrize("task", TASKS)
def test_scenes_of_a_task_are_what_it_says(task):
    kind, seen = TASKS[task], set()
    for split in ("tune", "test"):
        for index in range(kind.scenes):
            scene = task_scene(task, split, index)
            assert scene == task_scene(task, split, index)
            assert len(scene.objects) == kind.concepts
            assert all(is_reserved(o.identity) and not o.hat for o in scene.objects)
            assert (len({o.noun for o in scene.objects}) == 1) == kind.one_class
            assert (len({o.colour for o in scene.objects}) == 1) == kind.one_colour
            assert len({(o.accent, o.pattern) for o in scene.objects}) == kind.concepts
            seen.add(scene)
    assert len(seen) == 2 * kind.scenes
    with pytest.raises(ValueError, match="must be one of"):
        task_scene(task, "other", 0)


def test_the_demo_shows_a_cat_and_a_dog():
    assert [o.noun for o in demo_scene().objects] == ["cat", "dog"]
