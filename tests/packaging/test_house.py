"""Which way imports run: the table of rooms in DESIGN.md, held against the code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs a checkout: setup.py is not here")
MAPPED = {"sdk.kernels": ROOT / "kernels/fused", "sdk.bindings": ROOT / "bindings"}
NOT_THE_CORE = ("miniworld", "commands")  # rooms that may be large
MOST_FILES = 12


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for package, folder in {"sdk": ROOT / "sdk", **MAPPED}.items():
        for file in folder.rglob("*.py"):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of the package: at the top, in functions, for types alone, by name from a registry."""
    return {name: imported(file, name) & modules().keys() for name, file in modules().items()}


def imported(file: Path, name: str) -> set[str]:
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    text = file.read_text(encoding="utf-8")
    # Where names are looked up strings name modules, too; those of lazy.py name packages that may be missing.
    by_name = name != "sdk.lazy" and ("import_module(" in text or "public_names(" in text)
    for node in ast.walk(ast.parse(text)):
        if by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            dots = len(node.value) - len(node.value.lstrip("."))
            base = package[: len(package) - max(dots - 1, 0)]
            found.add(".".join([*base, node.value.lstrip(".")]))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in modules() else source)
    return found


@cache
def rooms() -> dict[str, int]:
    """Rooms and their rank, from the table in DESIGN.md; those of one line share it."""
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    table = text[text.index("| room |") :].split("\n\n")[0].splitlines()[2:]
    return {room: rank for rank, line in enumerate(table) for room in re.findall(r"`(\w+)`", line.split("|")[1])}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_room_is_in_the_design():
    there = {room_of(name) for name in modules()} - {""}
    assert there == set(rooms())


def test_imports_go_up_the_table():
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if name != "sdk" and room_of(other) and rooms()[room_of(other)] > rooms()[room_of(name)]
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    """Tarjan's search would name the circle; taking away what imports nothing leaves it over, too."""
    left = {name: set(others) - {name} for name, others in imports().items()}
    while free := [name for name, others in left.items() if not others]:
        for name in free:
            left.pop(name)
        for others in left.values():
            others.difference_update(free)
    assert not left, f"among these: {sorted(left)}"


LOAD = """
import importlib, json, os, sys
import torch, diffusers, transformers  # what is no module of ours may be there before; of what most rooms load, once
import scipy.stats, torch._dynamo, transformers.generation
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
try:
    import onnxruntime
except ImportError:
    pass
wanted = json.loads(sys.argv[1])
for room, names in wanted.items():
    read, write = os.pipe()
    if os.fork() == 0:
        for name in names:
            importlib.import_module(name)
        loaded = [m for m in sys.modules if m.startswith("sdk.")]
        os.write(write, json.dumps(loaded).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        print(room, answer.read())
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")
def test_a_room_loads_nothing_of_those_below_it():
    """For real, in an interpreter that has loaded nothing of the package yet, through all files in between."""
    heavy = {"kernels": "triton", "bindings": "_core"}  # need what may not be installed
    wanted: dict[str, list[str]] = {}
    for name in modules():
        room = room_of(name)
        if room and heavy.get(room, "no such") not in name:
            wanted.setdefault(room, []).append(name)
    done = subprocess.run([sys.executable, "-c", LOAD, json.dumps(wanted)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answers = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(answers) == set(wanted)
    for room, answer in answers.items():
        below = {
            m for m in json.loads(answer or '["sdk.nothing loaded"]') if rooms().get(room_of(m), 99) > rooms()[room]
        }
        assert not below, f"{room} loads {sorted(below)[:3]}"


def test_the_core_knows_nothing_of_the_drawn_world():
    code = "import sdk.fit.fit, sdk.eval.evaluation, sdk.masks.find, sdk.sampling.engine, sdk.data.rows, sys; "
    code += "print([m for m in sys.modules if 'miniworld' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_imports_the_training_of_the_bundled_model():
    for name, others in imports().items():
        if not name.startswith("sdk.miniworld.training"):
            assert not {o for o in others if o.startswith("sdk.miniworld.training")}, name


def test_rooms_stay_small_and_files_readable():
    for folder in (ROOT / "sdk").iterdir():
        if folder.is_dir() and folder.name not in NOT_THE_CORE:
            assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    for folder in ("sdk", "kernels", "bindings", "tests", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_benchmarks_and_examples_use_public_names():
    """A room's names that its ``__all__`` lists; never the file that a name lives in."""
    for folder in ("benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sdk":
                    public = getattr(importlib.import_module(node.module), "__all__", ())
                    hidden = {alias.name for alias in node.names} - set(public)
                    assert not hidden, f"{file} imports {hidden} of {node.module}"
                elif isinstance(node, ast.Import):
                    assert not [a.name for a in node.names if a.name.startswith("sdk.")], file


def test_public_names_are_where_packages_say():
    for name, file in modules().items():
        if file.name == "__init__.py" and name != "sdk.kernels":
            package = importlib.import_module(name)
            for public in getattr(package, "__all__", ()):
                assert getattr(package, public) is not None, f"{name}.{public}"
