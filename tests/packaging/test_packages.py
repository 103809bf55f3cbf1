"""What goes into the package: found, not listed; and a description that can stand alone."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs a checkout: setup.py is not here")


def setup_of(folder: Path):
    """Return the module setup.py of a tree; imported, it builds nothing."""
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    spec = importlib.util.spec_from_file_location("setup_under_test", folder / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_folder_with_code_is_a_package_and_found():
    module = setup_of(ROOT)
    found = set(module.packages())
    assert {"sdk", "sdk.commands", "sdk.kernels", "sdk.kernels.impl", "sdk.bindings"} <= found
    for package, folder in module.FOLDERS.items():
        for file in (ROOT / folder).rglob("*.py"):
            inner = file.relative_to(ROOT / folder).parent.parts
            assert ".".join([package, *inner]) in found, f"{file}: its folder has no __init__.py"


def test_a_new_package_needs_no_entry(tmp_path):
    shutil.copy(ROOT / "setup.py", tmp_path)
    for folder in ("sdk", "sdk/novel", "sdk/novel/inner", "kernels/fused", "kernels/fused/more", "bindings"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "__init__.py").touch()
    assert setup_of(tmp_path).packages() == [
        *("sdk", "sdk.novel", "sdk.novel.inner", "sdk.kernels", "sdk.kernels.more", "sdk.bindings"),
    ]


def test_the_long_description_stands_alone():
    text = setup_of(ROOT).long_description()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"!\[", readme)) == text.count("](data:image/")
    for target in re.findall(r"\]\(([^)]*)\)", text):
        assert target.startswith(("https://", "#", "data:image/")), target[:80]
    assert len(text) < 200_000  # every resolver reads it
