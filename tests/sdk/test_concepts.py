"""Tokens, captions and positions."""

from __future__ import annotations

import random

import pytest

from sdk.concepts import class_prompts, find_positions, resolve_concepts, target_caption
from sdk.errors import InputError

CAT_DOG = resolve_concepts(["cat", "dog"])


def test_captions():
    rng = random.Random(0)
    assert target_caption(CAT_DOG, "", rng, 0.0) == "photo of a <new1> cat and <new2> dog"
    assert target_caption(CAT_DOG, "very small", rng, 1.0) == "very small photo of a <new2> dog and <new1> cat"
    three = resolve_concepts(["mother", "father", "child"])
    assert target_caption(three, "", rng, 0.0) == "photo of a <new1> mother, <new2> father, and <new3> child"
    assert class_prompts(CAT_DOG, ["photo of {all}"]) == ["photo of a cat and a dog"]
    assert class_prompts(CAT_DOG, ["{all} at night", "{each} in {each}"]) == [
        "a cat and a dog at night",
        "a cat in a cat",
        "a dog in a dog",
    ]


def test_order_swaps_half_of_the_time():
    rng = random.Random(0)
    swapped = sum(target_caption(CAT_DOG, "", rng, 0.5).index("<new2>") < 15 for _ in range(2000))
    assert 900 < swapped < 1100


def test_positions():
    ids = [0, 9, 100, 5, 6, 8, 101, 7, 1, 1]
    assert find_positions(ids, 100, [5, 6], phrase="<new1> teddy bear") == (2, [3, 4])
    assert find_positions(ids, 101, [7], phrase="<new2> dog") == (6, [7])
    assert find_positions([0, 100, 3, 5, 1], 100, [5], phrase="<new1> cat") == (1, [3])
    with pytest.raises(InputError, match="must contain '<new3> dog'"):
        find_positions(ids, 102, [7], phrase="<new3> dog")
    with pytest.raises(InputError, match="noun must follow"):
        find_positions(ids, 101, [5], phrase="<new2> cat")


def test_names_are_tidied():
    assert resolve_concepts(["  teddy   bear "])[0].noun == "teddy bear"
