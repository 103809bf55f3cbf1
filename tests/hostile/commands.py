"""Command lines: arguments of every command, some of them odd."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from . import honest, picture_bytes
from .case import Case, Place
from .values import odd_name, odd_text

_status = 0
_LONG = "x" * 300


def call(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return the exit status, what it printed, what it said."""
    global _status
    from sdk.commands.main import main

    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            _status = main(list(arguments))
        except SystemExit as stop:
            _status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return _status, out.getvalue(), errors.getvalue()


def possible(argument: str) -> str:
    """What a process can be given: no NUL, and of the lone surrogates those alone that stand for bytes."""
    return "".join(c for c in argument if c != "\0" and not ("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff"))


def last_status() -> int:
    """Exit status of the last :func:`call`."""
    return _status


def lines(rng: random.Random, place: Place) -> Case:
    """A whole command line with something odd in it."""
    photo = place.inputs / "photo.png"
    photo.write_bytes(place.assets.photo.read_bytes())
    arguments = rng.choice(
        (_fit, _fit, _generate, _generate, _verify, _export, _masks, _merge, _evaluate, _compare, _none)
    )(rng, place, photo)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        arguments = _odd(rng, place, arguments)
    arguments = _tame([possible(argument) for argument in arguments], place)

    def run() -> list[str]:
        return honest.printed(*call(arguments))

    named = [value for option, value in pairwise(arguments) if option == "--output"]
    inputs = (place.inputs,) if any(value.startswith(str(place.inputs)) for value in named) else ()
    text = " ".join(repr(a[:40]) for a in arguments)[:300]
    return Case(text, _sparing(run, place), allowed=(place.cwd, *inputs))  # what a user names is no fault


def _sparing(run: Callable[[], list[str]], place: Place) -> Callable[[], list[str]]:
    """A relative output lies in the working directory; what was there stays."""
    precious = {path: path.read_bytes() for path in place.cwd.iterdir()}

    def checked() -> list[str]:
        notes = run()
        honest.untouched(precious)
        return notes

    return checked


def _tame(arguments: list[str], place: Place) -> list[str]:
    """What a user asks for is no fault: outputs elsewhere come to the case's folder, names of models become paths."""
    made = list(arguments)
    for index, argument in enumerate(made):
        option, mark, value = argument.partition("=")
        before = made[index - 1] if index else ""
        named, value = (option, value) if mark and option.startswith("--") else (before, argument)
        if named == "--output" and (value.startswith("~") or ".." in value):
            value = str(place.out / value.strip("~/.").replace("..", "__"))
        elif named in ("--model", "--clip", "--dino") and not value.startswith(("/", ".")):
            value = f"./{value}"
        made[index] = f"{option}={value}" if mark and option.startswith("--") else value
    return made


def _odd(rng: random.Random, place: Place, arguments: list[str]) -> list[str]:
    """One change to a command line."""
    made = list(arguments) or ["doctor"]
    at = rng.randrange(1, len(made)) if len(made) > 1 else 0
    kind = rng.choice(("replace",) * 5 + ("drop", "twice", "insert", "swap", "option", "number", "path", "equals"))
    if kind == "replace":
        made[at] = odd_text(rng)
    elif kind == "drop":
        del made[at]
    elif kind == "twice":
        made.insert(at, made[at])
    elif kind == "insert":
        made.insert(at, odd_text(rng))
    elif kind == "swap":
        other = rng.randrange(len(made))
        made[at], made[other] = made[other], made[at]
    elif kind == "option":
        made.insert(
            at,
            rng.choice(("--", "-", "--seed", "--nothing", "-h", "--version", "--config", "--mask", "--dtype", "--zz")),
        )
    elif kind == "number":
        option = rng.choice(("--seed", "--steps", "--num-images", "--guidance", "--patience", "--validate-every"))
        value = rng.choice(
            ("-1", "0", "1e3", "nan", "inf", "9" * 40, "1.5", "", "0x10", "１", "2**3", "-0", " 1", "1_0")
        )
        made += [option, value]
    elif kind == "path":
        made[at] = _path(rng, place)
    else:
        made[at] = made[at] + "=" + odd_text(rng)
    return made


def _path(rng: random.Random, place: Place) -> str:
    """A path that is odd, exists or not."""
    data = picture_bytes.hostile(rng)[0]
    name = odd_name(rng).strip("/")[:60] or "-"
    with contextlib.suppress(OSError):
        (place.inputs / name).write_bytes(data)
    folder = place.inputs / "folder"
    folder.mkdir(exist_ok=True)
    return rng.choice(
        (
            *(
                str(place.inputs / name),
                name,
                str(folder),
                str(place.inputs / _LONG),
                "/dev/null",
                "/",
                ".",
                "..",
                "~",
                "-",
            ),
            *("http://127.0.0.1:9/", str(place.inputs / "missing"), str(place.inputs) + "/../in/photo.png", "\udcff"),
        )
    )


def _model(rng: random.Random, place: Place) -> list[str]:
    """The tiny model, or one that is not there: most of what is wrong shows before a model is loaded."""
    there = rng.random() < 0.15
    return ["--model", str(place.assets.model if there else place.inputs / "no-model"), "--device", "cpu"]


def _fit(rng: random.Random, place: Place, photo: Path) -> list[str]:
    config = place.inputs / "quick.toml"
    config.write_text("steps = 1\nbatch_size = 1\ntarget_pool = 1\nprior_count = 1\nprior_steps = 1\n")
    line = ["fit", str(photo), "--concept", "cat", "--concept", "dog", "--output", str(place.out / "pack")]
    return [*line, "--config", str(config), "--model", str(place.inputs / "no-model")]


def _generate(rng: random.Random, place: Place, photo: Path) -> list[str]:
    line = ["generate", str(place.assets.pack), "--prompt", "a <new1> cat", "--output", str(place.out / "pictures")]
    return [*line, "--steps", "1", "--num-images", "1", *_model(rng, place)]


def _verify(rng: random.Random, place: Place, photo: Path) -> list[str]:
    what = rng.choice((place.assets.pack, place.assets.adapter, place.assets.exported))
    return ["verify", str(what), *_model(rng, place)]


def _export(rng: random.Random, place: Place, photo: Path) -> list[str]:
    form = rng.choice(("lora", "diffusers", "webui"))
    line = ["export", str(place.assets.pack), "--format", form, "--output", str(place.out / "exported")]
    return [*line, *_model(rng, place)]


def _masks(rng: random.Random, place: Place, photo: Path) -> list[str]:
    line = ["masks", str(photo), "--concept", "cat", "--output", str(place.out / "masks")]
    return [*line, *_model(rng, place)]


def _merge(rng: random.Random, place: Place, photo: Path) -> list[str]:
    pack = str(place.assets.pack)
    return ["merge", pack, pack, "--output", str(place.out / "both"), *_model(rng, place)]


def _evaluate(rng: random.Random, place: Place, photo: Path) -> list[str]:
    line = ["evaluate", str(place.assets.pack), "--output", str(place.out / "report"), "--steps", "1"]
    return [*line, "--num-images", "1", "--model", str(place.inputs / "no-model")]


def _compare(rng: random.Random, place: Place, photo: Path) -> list[str]:
    line = ["compare", str(photo), "--concept", "cat", "--output", str(place.out / "report"), "--methods", "disendiff"]
    return [*line, "--steps", "1", "--model", str(place.inputs / "no-model")]


def _none(rng: random.Random, place: Place, photo: Path) -> list[str]:
    return rng.choice(([], ["doctor"], ["--version"], ["--help"], ["fit", "--help"], ["nothing"], ["doctor", "x"]))
