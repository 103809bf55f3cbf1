"""What people write, and what the model reads."""

from __future__ import annotations

import pytest

from sdk import Concept
from sdk.studio.words import names_of, to_prompt

CAT, DOG, OTHER = Concept("cat", "<new1>"), Concept("dog", "<new2>"), Concept("dog", "<new3>")
TWO = [CAT, DOG]


def test_concepts_of_one_class_are_counted():
    assert names_of(TWO) == ["my cat", "my dog"]
    assert names_of([DOG, CAT, OTHER]) == ["my first dog", "my cat", "my second dog"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("my cat and my dog on the beach", "a <new1> cat and a <new2> dog on the beach"),
        ("My  Cat, asleep", "a <new1> cat, asleep"),
        ("my catalogue of dogs", "my catalogue of dogs"),
        ("tummy cat", "tummy cat"),
        ("a <new2> dog", "a <new2> dog"),
        ("", ""),
    ],
)
def test_names_become_phrases(written, read):
    assert to_prompt(written, TWO) == read


def test_a_longer_name_is_not_taken_for_a_shorter_one():
    bears = [Concept("bear", "<new1>"), Concept("bear cub", "<new2>")]
    assert to_prompt("my bear cub and my bear", bears) == "a <new2> bear cub and a <new1> bear"
    assert to_prompt("my second dog", [DOG, OTHER]) == "a <new3> dog"


def test_nouns_are_no_patterns_and_without_concepts_nothing_changes():
    odd = Concept("c.t (old)", "<new1>")
    assert to_prompt("my cat old, my c.t (old)!", [odd]) == "my cat old, a <new1> c.t (old)!"
    assert to_prompt("my cat", []) == "my cat"
