"""Which way imports run, and that the product stands on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs a checkout: setup.py is not here")


def imported(file: Path) -> set[str]:
    """Return the modules a file imports, relative ones written as ``sdk...``."""
    kernels = ROOT / "kernels" / "fused"
    if file.is_relative_to(kernels):
        package = ["sdk", "kernels", *file.relative_to(kernels).parent.parts]
    elif file.is_relative_to(ROOT / "bindings"):
        package = ["sdk", "bindings"]
    else:
        package = ["sdk", *file.relative_to(ROOT / "sdk").parent.parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, node.module or ""]).strip("."))
    return names


def starts(names: set[str], *prefixes: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(p + ".") for p in prefixes)}


def test_kernels_know_nothing_of_the_sdk():
    for file in (ROOT / "kernels/fused").rglob("*.py"):
        names = imported(file)
        assert not starts(names, "diffusers", "transformers"), file
        assert starts(names, "sdk") - starts(names, "sdk.kernels", "sdk.bindings") == set(), file


def test_bindings_know_neither_torch_nor_the_sdk():
    for file in (ROOT / "bindings").glob("*.py"):
        names = imported(file)
        assert not starts(names, "torch", "diffusers", "transformers"), file
        assert starts(names, "sdk") - starts(names, "sdk.kernels.options", "sdk.bindings") == set(), file


def test_the_core_does_not_depend_on_the_drawn_world():
    for file in (ROOT / "sdk").glob("*.py"):
        if file.name != "evaluation.py":
            assert not starts(imported(file), "sdk.miniworld"), file
    for file in (ROOT / "sdk/methods").glob("*.py"):
        assert not starts(imported(file), "sdk.miniworld", "sdk.commands", "sdk.personalizer"), file


def test_nothing_imports_the_training_of_the_bundled_model():
    for file in [
        *(ROOT / "sdk").glob("*.py"),
        *(ROOT / "sdk/commands").glob("*.py"),
        *(ROOT / "sdk/miniworld").glob("*.py"),
    ]:
        assert not starts(imported(file), "sdk.miniworld.training"), file


def test_files_stay_readable():
    for folder in ("sdk", "kernels", "tests", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
