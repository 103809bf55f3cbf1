"""Class nouns and tokens: lists that are none, words that are none, tokens that are names of files."""

from __future__ import annotations

import random
from typing import Any

from . import honest
from .case import ANY, REFUSE, Case, Place, Silent
from .values import odd_python, odd_text


def lists(rng: random.Random, place: Place) -> Case:
    """What a fit, a search for masks or an import is asked to learn."""
    from sdk import Concept

    kind = rng.choice(("list",) * 4 + ("noun",) * 4 + ("token",) * 5 + ("comma", "object", "pair"))
    expect = ANY
    if kind == "list":
        given: Any = rng.choice(
            (
                *(
                    "cat",
                    b"cat",
                    None,
                    5,
                    [],
                    (),
                    {},
                    {"cat"},
                    {"cat": "<new1>"},
                    ["cat"] * 9,
                    ["cat", ["dog"]],
                    [None],
                    [5],
                ),
                *(
                    [""],
                    [" "],
                    ["cat", ""],
                    (n for n in ("cat", "dog")),
                    ["<new1>"],
                    ["<new1> cat"],
                    ["cat"] * 1000,
                    [b"cat"],
                ),
                *(
                    [("cat", "<new1>")],
                    [{"class": "cat"}],
                    [Concept("cat"), Concept("dog", "<new1>")],
                    range(2),
                    ["cat\ndog"],
                ),
            )
        )
    elif kind == "noun":
        given = ["cat", odd_text(rng)]
    elif kind == "token":
        given = [
            "cat",
            Concept("dog", rng.choice((odd_text(rng), f"<{odd_text(rng)}>", f"<{odd_text(rng)}>", "<new1>", "<NEW1>"))),
        ]
    elif kind == "comma":
        given, expect = [rng.choice(("cat,dog", "cat, dog", "cat,dog,bird"))], REFUSE
    elif kind == "pair":
        given = [Concept(odd_python(rng), odd_python(rng))]
    else:
        given = rng.choice((odd_python(rng), [odd_python(rng)], ["cat", odd_python(rng)]))
    way = rng.choice(("resolve",) * 5 + ("masks", "fit", "import"))

    def run() -> list[str]:
        if way == "resolve":
            from sdk.concepts import resolve_concepts

            _fine(resolve_concepts(given))
            return []
        engine, picture = place.assets.engine, place.assets.picture
        if way == "masks":
            for mask in engine.find_masks(picture, given, config=place.assets.config):
                if mask.size != picture.size:
                    raise Silent("a mask of another size")
            return []
        if way == "import":
            from sdk.exports import import_pack

            return honest.pack(import_pack(place.assets.pack, given, engine), place, rng)
        config = place.assets.config.with_changes(steps=1, prior="none", checkpoint_every=0)
        try:
            made = engine.fit(picture, given, config=config, seed=1)
        finally:
            engine.unload_pack()
        _fine(made.concepts)
        return honest.pack(made, place, rng)

    return Case(f"{way}: {given!r:.100}", run, expect)


def _fine(concepts: Any) -> None:
    """Concepts that were taken are text, each with a token of its own."""
    for concept in concepts:
        if not all(isinstance(text, str) and text.strip() for text in (concept.noun, concept.token)):
            raise Silent(f"the concept {concept!r:.80}")
    if len({c.token for c in concepts}) < len(concepts):
        raise Silent("one token for several concepts")
