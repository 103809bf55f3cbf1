"""Settings: TOML texts and plain values of wrong types and sizes; a few of them are fitted with."""

from __future__ import annotations

import random
from typing import Any

from . import honest
from .case import ANY, REFUSE, Case, Place
from .values import mutated, odd_encoding, odd_python, odd_text

_METHODS = ("disendiff", "custom_diffusion", "textual_inversion", "dreambooth", "break_a_scene", "attencraft")
_TOML_VALUES = (
    *(
        "nan",
        "inf",
        "-inf",
        "+nan",
        "1e400",
        "9" * 30,
        "-1",
        "0",
        "1.5",
        "true",
        '""',
        '"x"',
        "[]",
        "[5]",
        "[[]]",
        "{}",
    ),
    *('[""]', '["a", 5]', "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0x10", "1_000", '"\\u0000"', '"\\u202E"'),
    *(
        "'''\nx'''",
        "[nan]",
        "{a = 1}",
        "[{}]",
        "-0.0",
        "1e-320",
        '"{each}"',
        '["{all}"]',
        "true",
        '"../../x"',
        "9" * 5000,
    ),
    *("[" * 2000 + "]" * 2000, '"' + "a" * 9000 + '"'),
)


def values(rng: random.Random, place: Place) -> Case:
    """Plain values, as of JSON or of a program."""
    from sdk import FitConfig

    method = rng.choice(_METHODS)
    tree = FitConfig.preset("best", method).to_dict()
    for _ in range(rng.choice((1, 1, 1, 2))):
        if isinstance(tree, dict) and tree:
            tree, what = mutated(rng, tree, odd_python)
    way = rng.choice(("from_dict",) * 5 + ("preset", "changes", "method", "constructor"))
    if way == "method":
        method = rng.choice((odd_python(rng), odd_text(rng)))

    def run() -> None:
        if way in ("from_dict", "method"):
            made = FitConfig.from_dict(tree, method)
        elif way == "preset":
            made = FitConfig.preset(rng.choice(("best", "best", odd_text(rng))), method, **_keywords(tree))
        elif way == "changes":
            made = FitConfig().with_changes(**_keywords(tree))
        else:
            known = FitConfig().to_dict()
            made = FitConfig(**{k: v for k, v in _keywords(tree).items() if k in known and k not in ("masks", method)})
        if way != "constructor":  # a dataclass takes what it is given; these check
            _same_again(made, method)

    return Case(f"{way} {method!r:.30}: {what}", run)


def _keywords(tree: Any) -> dict[str, Any]:
    """As keywords are: with names that are text."""
    return {name: value for name, value in tree.items() if isinstance(name, str)} if isinstance(tree, dict) else {}


def _same_again(made: Any, method: Any) -> None:
    """Settings that were taken are finite, can be written down, and mean the same when read."""
    import json

    from sdk import FitConfig

    from .case import Silent

    plain = made.to_dict()
    try:
        text = json.dumps(plain, allow_nan=False)
    except ValueError:
        raise Silent("settings that are not finite") from None
    if FitConfig.from_dict(json.loads(text), method).to_dict() != plain:
        raise Silent("settings that are others once written down")


def texts(rng: random.Random, place: Place) -> Case:
    """A TOML file that the command line is given; the model is missing, so that nothing is fitted."""
    from sdk import FitConfig

    lines = []
    names = [*FitConfig().to_dict(), "masks.power", "masks.draws", "disendiff.calibration.suppress", "preset", "seed"]
    for _ in range(rng.randint(1, 4)):
        name = rng.choice((rng.choice(names), rng.choice(names), rng.choice(names), odd_text(rng)))
        lines.append(f"{name} = {rng.choice(_TOML_VALUES)}")
    if rng.random() < 0.2:
        lines.append(
            rng.choice(("[masks]", "[disendiff]", "[[disendiff]]", "[dreambooth]", "[disendiff.calibration]", "[]"))
        )
        lines.append(f"{rng.choice(('power', 'x', 'sigma', 'steps'))} = {rng.choice(_TOML_VALUES)}")
    text = "\n".join(lines)
    data, what = text.encode("utf-8", "surrogatepass"), ""
    if rng.random() < 0.25:
        data, what = odd_encoding(rng, text)
    file = place.inputs / "settings.toml"
    file.write_bytes(data)
    photo, method = str(place.assets.photo), rng.choice(_METHODS)

    def run() -> list[str]:
        from .commands import call

        line = ["fit", photo, "--concept", "cat", "--output", str(place.out / "pack"), "--config", str(file)]
        return honest.printed(*call([*line, "--method", method, "--model", str(place.inputs / "none")]))

    return Case(f"{what} {text[:100]!r}", run)


def fits(rng: random.Random, place: Place) -> Case:
    """Settings that can be written but not fitted with, or only to nothing; the fits are of a step or two."""
    extremes: dict[str, tuple[Any, ...]] = {
        "learning_rate": (1e8, 1e30, 1e300, 1e-300),
        "token_learning_rate": (1e8, 1e38, 1e-320),
        "weight_decay": (1e30, 1e308, 10**30),
        "loss_scale": (1e38, 1e-40, 1e308),
        "prior_guidance": (1e38, -1e38, 1e300, 0, -1),
        "prior_prompts": (("",), ("cat " * 100,), ("<new1>",), ("{each} {all}",), ("\x1b[2J",), ("{",)),
        "prior_steps": (1000, 2**40),
        "initializers": (("giraffe",), ("",), ("x", "y", "z"), ("cat " * 100,), ("\0",), ("<new1>",), (" ",)),
        "initializer_candidates": (("",), ("x", ""), ("<new1>",)),
        "precision": ("bf16", "fp16", "auto"),
        "backend": ("reference", "cpp", "nothing", "", "augmented_v"),
        "target_share": (0.0, 1.0),
        "prior": ("none", "", "no-such-folder", "\x1b[2J", "generate ", "/dev/null", "../..", str(place.inputs)),
        "masks": (
            {"power": 10**9},
            {"noise": 1},
            {"margin": 1e300},
            {"background": 0.999999},
            {"draws": 1},
            {"margin": 1},
        ),
        "disendiff": (
            {"calibration": {"suppress": 10**9}},
            {"calibration_weight": 1e38},
            {"calibration": {"sigma": 1e-300}},
            {"micro_batch": 10**9},
        ),
    }
    name = rng.choice(list(extremes))
    value = rng.choice(extremes[name])
    # After a step at such a rate weights are not finite, at the latest as float16.
    expect = REFUSE if name == "learning_rate" and value >= 1e8 else ANY

    def run() -> list[str]:
        engine = place.assets.engine
        config = place.assets.config.with_changes(steps=2, prior_count=2, checkpoint_every=0).with_changes(
            **{name: value}
        )
        try:
            made = engine.fit(place.assets.picture, ["cat", "dog"], config=config, seed=1)
        finally:
            engine.unload_pack()
        return honest.pack(made, place, rng)

    return Case(f"fit with {name}={value!r:.60}", run, expect)
