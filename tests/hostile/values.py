"""Values that nobody expected, and JSON trees with one of them somewhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Literal(str):
    """Text that goes into JSON as it is, for what no Python value is written as."""

    __slots__ = ()


DEEP = Literal("[" * 5000 + "]" * 5000)
DEEP_TABLE = Literal('{"a":' * 5000 + "1" + "}" * 5000)
NOT_A_NUMBER = (Literal("NaN"), Literal("Infinity"), Literal("-Infinity"), Literal("1e999"))
_NUMBERS = (
    *(0, 1, -1, 2, 7, 99, 2**15, 2**31, 2**31 - 1, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30),
    *(0.5, -0.5, 1e-320, 1e308, -1e308),
)
_TEXTS = (
    *("", " ", "\t\n", "x", "NaN", "1", "None", "true", "0x10", "1e5", "cat,dog", "a" * 300, "ab " * 20000),
    *(
        "\x1b[2J\x1b[31mred",
        "\x1b]0;title\x07",
        "first\r\nforged: line",
        "a\0b",
        "\u202ereversed",
        "\u2028",
        "\ufeffbom",
    ),
    *(
        "\ud800",
        "\udcff",
        "e\u0301",
        "ﬀ",
        "\u200d",
        "🐈\u200d⬛",
        "ｃａｔ",
        "кот",
        "猫",
        "ß",
        "İ",
        "\x7f",
        "\x9b31m",
        "\x00",
    ),
    *(
        "../../evil",
        "..",
        ".",
        "/etc/passwd",
        "/",
        "~",
        "~root/x",
        "C:\\x",
        "a\\b",
        "CON",
        "NUL",
        "com1.txt",
        "-rf",
        "--help",
    ),
    *(
        "$HOME",
        "`id`",
        "$(id)",
        "%s%n%x",
        "{0.__class__}",
        "{all}",
        "{each}",
        "{",
        "}",
        "';--",
        '"',
        "<script>alert(1)",
    ),
    *(
        "<new1>",
        "<new1> <new2>",
        "<new9>",
        "<>",
        "<../../evil>",
        "<unet>",
        "<CON>",
        "<NEW1>",
        "<|endoftext|>",
        "<new1",
        "new1>",
    ),
    *(
        "http://127.0.0.1:9/x.png",
        "https://example.invalid/m",
        "file:///etc/passwd",
        "someone/some-model",
        "runwayml/x",
    ),
)


def odd_text(rng: random.Random) -> str:
    """A string that should not be where it is."""
    chosen = rng.choice(_TEXTS)
    if rng.random() < 0.2:
        chosen = rng.choice(("", "cat", "photo of ", "<new1> ")) + chosen + rng.choice(("", " ", "\n", "cat"))
    return chosen


def odd_name(rng: random.Random) -> str:
    """A string that can be part of a path on this system: neither NUL nor lone surrogates."""
    while True:
        text = odd_text(rng)
        if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
            return text


def odd_json(rng: random.Random) -> Any:
    """A value that JSON can hold."""
    return rng.choice(
        (
            lambda: rng.choice((None, True, False)),
            lambda: rng.choice(_NUMBERS),
            lambda: odd_text(rng),
            lambda: rng.choice(NOT_A_NUMBER),
            lambda: rng.choice((Literal("9" * 5000), Literal("-0"), Literal("1E400"), DEEP, DEEP_TABLE)),
            lambda: rng.choice(([], {}, [None], [[]], {"": None}, [1, "a", None], {"a": {"b": {}}}, [0] * 1000)),
        )
    )()


def odd_python(rng: random.Random) -> Any:
    """A value of Python that no file can hold, or one that a file can."""
    return rng.choice(
        (
            lambda: rng.choice((None, True, False, ..., NotImplemented)),
            lambda: rng.choice(_NUMBERS),
            lambda: odd_text(rng),
            lambda: rng.choice((float("nan"), float("inf"), -float("inf"), 10**400, 1 + 2j)),
            lambda: rng.choice((b"bytes", bytearray(b"x"), object(), set(), frozenset({1}), range(3), int, len)),
            lambda: rng.choice(([], {}, (), [None], [[]], {"a": 1}, [1, "a"], ("a",), [float("nan")])),
            lambda: rng.choice((np.int64(3), np.float32(2.5), np.array(3), np.array([1, 2]), np.bool_(True), np.nan)),
            lambda: rng.choice((Exception("x"), (i for i in range(2)), lambda: 1, memoryview(b"abc"))),
        )
    )()


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with every key in it."""
    if isinstance(tree, dict):
        keys: list[Any] = list(tree)
    elif isinstance(tree, list):
        keys = list(range(len(tree)))
    else:
        return
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def copied(tree: Any) -> Any:
    """A copy of dictionaries and lists alone; other values may be of a kind that cannot be copied."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def mutated(
    rng: random.Random, tree: Any, value: Callable[[random.Random], Any] = odd_json, under: tuple[str, ...] = ()
) -> tuple[Any, str]:
    """Return a copy of a tree with one thing changed, and what that was.

    Args:
        rng: decides.
        tree: of dictionaries and lists.
        value: makes the odd values.
        under: if given, only below these keys of the top.
    """
    tree = copied(tree)
    if under:
        part, what = mutated(rng, {key: tree[key] for key in under if key in tree}, value)
        if isinstance(part, dict):
            for key in under:
                tree.pop(key, None)
            tree.update(part)
        return tree, what
    spots = list(places(tree))
    if not spots or rng.random() < 0.01:
        new = value(rng)
        return new, f"all of it is {new!r:.80}"
    container, key = rng.choice(spots)
    old = container[key]
    kind = rng.choice(("replace",) * 6 + ("delete", "delete", "add", "rename", "wrap", "twice", "swap", "text"))
    if kind == "delete":
        del container[key]
    elif kind == "add" and isinstance(container, dict):
        container[odd_text(rng)] = value(rng)
    elif kind == "rename" and isinstance(container, dict):
        container[odd_text(rng)] = container.pop(key)
    elif kind == "wrap":
        container[key] = rng.choice(([old], {"value": old}, [old, old], [[old]]))
    elif kind == "twice" and isinstance(container, list):
        container.append(copied(old))
    elif kind == "swap":
        other, there = rng.choice(spots)
        if other is container:
            container[key], other[there] = copied(other[there]), old
    elif kind == "text":
        container[key] = odd_text(rng)
    elif isinstance(old, (int, float)) and not isinstance(old, bool) and rng.random() < 0.3:
        changes: list[Callable[[], Any]] = [lambda: -old, lambda: old + 1, lambda: old * 1000]
        if abs(old) < 1e300:  # an integer of a file may be larger than any float
            changes += [lambda: old * 1e300, lambda: str(old), lambda: float(old)]
        container[key] = rng.choice(changes)()
    else:
        container[key] = value(rng)
    now = container.get(key, "gone") if isinstance(container, dict) else "changed"
    return tree, f"{kind} at {str(key)[:60]!r}: {now!r:.80}"


def to_json(tree: Any) -> str:
    """JSON of a tree that may hold :class:`Literal`."""
    texts: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Literal):
            texts.append(str(value))
            return f"@@{len(texts) - 1}@@"
        if isinstance(value, dict):
            return {str(key): marked(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [marked(each) for each in value]
        return value

    whole = json.dumps(marked(tree))
    for index, text in enumerate(texts):
        whole = whole.replace(f'"@@{index}@@"', text)
    return whole


def odd_encoding(rng: random.Random, text: str) -> tuple[bytes, str]:
    """Bytes of a text that a reader may not understand, and what was done."""
    plain = text.encode("utf-8", "surrogatepass")
    kind = rng.choice(("bom", "utf-16", "latin-1", "cut", "empty", "tail", "twice", "nul", "flip", "commas", "comment"))
    if kind == "bom":
        return b"\xef\xbb\xbf" + plain, kind
    if kind == "utf-16":
        return text.encode("utf-16", "surrogatepass"), kind
    if kind == "latin-1":
        return "é".encode("latin-1") + plain, kind
    if kind == "cut":
        return plain[: rng.randrange(len(plain) + 1)], kind
    if kind == "empty":
        return b"", kind
    if kind == "tail":
        return plain + rng.choice((b"}", b"\0\0", b"garbage", b"\n\n{}")), kind
    if kind == "twice":
        return plain + plain, kind
    if kind == "nul":
        return b"\0" * 100, kind
    if kind == "commas":
        return plain.replace(b",", b",,", 1), kind
    if kind == "comment":
        return b"// note\n# note\n" + plain, kind
    data = bytearray(plain)
    for _ in range(rng.randint(1, 4)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data), kind
