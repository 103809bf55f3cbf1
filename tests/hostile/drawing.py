"""Prompts and arguments of calls that draw, for torch and for ONNX Runtime alike."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from . import honest
from .case import ANY, NOTE, REFUSE, Case, Place, Silent
from .values import odd_python, odd_text

_NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
_SEEDS = (
    "7",
    1.5,
    2**31,
    2**32,
    2**63,
    2**64,
    -1,
    -(2**63),
    np.int64(3),
    np.uint8(200),
    np.int64(-5),
    True,
    float("nan"),
    10**30,
)
_STEPS = (0, -1, 1000, 10**9, "2", 2.0, 1.5, None, True, np.int64(2), float("nan"), np.int32(1))
_COUNTS = (0, -1, "2", 2.0, None, True, np.int64(2), float("nan"), 1.5)
_SIDES = (0, -1, 1, 3, 2**20, 2**31, 10**12, "32", 32.0, np.int64(48), True, 40, 48, float("nan"), 4, 8, 10**30)
_SCALES = (*_NOT_FINITE, 0, -1, 1, 1e30, 1e308, "6", True, np.float32(3), 10**400, 1 + 2j, [3.0])
_ETAS = (*_NOT_FINITE, -1, 2, 1e30, "1", None, True, np.float64(0.5), 1e308)


def torch_side(rng: random.Random, place: Place) -> Case:
    """Arguments of ``Personalizer.generate``."""
    return _case(rng, place, place.assets.engine, place.assets.loaded)


def onnx_side(rng: random.Random, place: Place) -> Case:
    """Arguments of ``OnnxPersonalizer.generate``."""
    return _case(rng, place, place.assets.runtime, "mine")


def _case(rng: random.Random, place: Place, engine: Any, pack: Any) -> Case:
    prompt: Any = "a <new1> cat"
    keywords: dict[str, Any] = {"concepts": pack, "seed": 1, "num_inference_steps": 2, "guidance_scale": 2.0}
    expect = ANY
    told = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        part = rng.choice(("prompt",) * 5 + ("argument",) * 6 + ("negative",) * 3 + ("pack",) * 2 + ("call", "several"))
        if part == "prompt":
            prompt, what, expect = _prompt(rng)
        elif part == "argument":
            name, value, certain = _argument(rng)
            keywords[name], what = value, f"{name}={value!r:.40}"
            expect = REFUSE if certain else expect
        elif part == "negative":
            keywords["negative_prompt"], what, certain = _negative(rng)
            if certain and expect == ANY and isinstance(prompt, str):
                expect = certain
        elif part == "pack":
            keywords["concepts"] = value = rng.choice(
                (None, "nothing", odd_python(rng), [pack], [None], [], [pack, pack], place.assets.pack)
            )
            what = f"pack {value!r:.40}"
        elif part == "several":
            prompt = rng.choice(
                ([], ["a cat", ""], ("a cat", "a dog"), ["a cat", None], [["a cat"]], "", {"a cat": 1}, ["a cat"] * 3)
            )
            what = f"prompts {prompt!r:.40}"
        else:
            name = rng.choice(
                ("callback_on_step_end", "progress", "cancel", "generator", "scheduler", "nothing", "height")
            )
            value = odd_python(rng)
            while callable(value):  # what a caller's own function raises is the caller's
                value = odd_python(rng)
            keywords[name], what = value, f"{name}={value!r:.40}"
        told.append(what)
    if len(told) > 1:  # one may make the other of no account
        expect = ANY

    def run() -> list[str]:
        try:
            result = engine.generate(prompt, **keywords)
        except TypeError as error:
            if "unexpected keyword argument" in str(error):
                return []  # Python's own answer to a name that is none
            raise
        return _checked(result, prompt, keywords)

    return Case("; ".join(told), run, expect)


def _checked(result: Any, prompt: Any, keywords: dict[str, Any]) -> list[str]:
    """As many pictures as were asked for, of the size that was asked for."""
    prompts = 1 if isinstance(prompt, str) else len(list(prompt))
    notes = honest.drawn(result, prompts * int(keywords.get("num_images") or 1))
    for name, side in (("width", 0), ("height", 1)):
        wanted = keywords.get(name)
        if wanted is not None and any(image.size[side] != wanted for image in result.images):
            raise Silent(f"{name}={wanted!r} has no effect: {result.images[0].size}")
    return notes


def _prompt(rng: random.Random) -> tuple[Any, str, str]:
    kind = rng.choice(("text", "text", "around", "token", "token", "order", "long", "object", "joined"))
    expect = ANY
    if kind == "text":
        prompt: Any = odd_text(rng)
        expect = REFUSE if not prompt.strip() else ANY
    elif kind == "around":
        prompt = f"a <new1> cat{odd_text(rng)} and a <new2> dog"
    elif kind == "token":
        words = (
            "<new3>",
            "<new1",
            "new1>",
            "<new1>cat",
            "<new1>  cat",
            "<NEW1> cat",
            "< new1> cat",
            "<new1><new2> cat",
        )
        prompt = f"a {rng.choice(words)}"
        expect = REFUSE if "<new3>" in prompt else ANY
    elif kind == "order":
        prompt = rng.choice(
            (
                "a cat <new1>",
                "<new1> dog",
                "<new2> cat and <new1> dog",
                "<new1> <new1> cat",
                "<new1>",
                "a <new1> big red cat",
            )
        )
        expect = REFUSE if prompt in ("a cat <new1>", "<new1>") else ANY
    elif kind == "long":
        prompt = rng.choice(
            (
                "beach " * 100 + "<new1> cat",
                "a <new1> cat" + " beach" * 100,
                "a <new1> cat" + "x" * 100_000,
                "<new1> cat " * 500,
            )
        )
        expect = REFUSE if prompt.startswith("beach") else NOTE
    elif kind == "object":
        prompt = odd_python(rng)
    else:
        prompt = odd_text(rng) + odd_text(rng)
    return prompt, f"prompt {prompt!r:.60}", expect


def _negative(rng: random.Random) -> tuple[Any, str, str]:
    """What is given has its effect, or a word is said."""
    value, expect = rng.choice(
        (
            *(("<new7>", NOTE), ("a <new7> cat", NOTE), ("beach " * 100, NOTE), ("x" * 100_000, NOTE)),
            *(
                (odd_text(rng), ANY),
                (odd_text(rng), ANY),
                (odd_python(rng), ANY),
                ([], ANY),
                (["a", "b"], REFUSE),
                (5, REFUSE),
            ),
            *((["<new7>"], NOTE), ([None], ANY), ([5], REFUSE), (b"x", REFUSE), ("", ANY)),
        )
    )
    return value, f"negative {value!r:.40}", expect


def _argument(rng: random.Random) -> tuple[str, Any, bool]:
    """Name, value, and whether it can be nothing but refused."""
    name, values = rng.choice(
        (
            *(
                ("seed", _SEEDS),
                ("seed", _SEEDS),
                ("num_inference_steps", _STEPS),
                ("num_images", _COUNTS),
                ("height", _SIDES),
            ),
            *(("width", _SIDES), ("guidance_scale", _SCALES), ("guidance_scale", _SCALES), ("eta", _ETAS)),
        )
    )
    value = (
        odd_python(rng)
        if rng.random() < 0.15 and name not in ("num_images", "num_inference_steps")
        else rng.choice(values)
    )
    return name, value, isinstance(value, float) and not math.isfinite(value)
