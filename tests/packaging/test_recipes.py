"""The recipes of CONTRIBUTING.md, followed to the letter on a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not RECIPES.is_file(), reason="needs a checkout: CONTRIBUTING.md is not here")

USE = """
import sys
from sdk import FitConfig, Personalizer, compare
from sdk.commands.main import main
model, picture, folder = sys.argv[1:]
p = Personalizer.from_pretrained(model, device="cpu")
seen = []
quick = dict(steps=3, batch_size=2, target_pool=2, prior="none", target_share=1.0, checkpoint_every=0)
config = FitConfig.preset("best", "anchored", **quick)
assert config.to_dict()["anchored"] == {"weight": 0.5}
assert FitConfig.from_dict(config.to_dict(), "anchored") == config
pack = p.fit(picture, ["cat", "dog"], method="anchored", config=config, output_dir=folder + "/pack",
             callback=lambda r: seen.append(r.losses))
assert all(abs(s["loss"] - s["denoise"] - 0.5 * s["distance"]) < 1e-4 for s in seen), seen
assert seen[-1]["distance"] > 0
common = ["--model", model, "--device", "cpu"]
words = ["--format", "words", "--digits", "2", "--output", folder + "/out"]
assert main(["export", folder + "/pack", *words, *common]) == 0
assert main(["verify", folder + "/pack", *common]) == 0
"""


def follow(target: Path) -> list[str]:
    """Do what the recipes say in a copy of ``sdk/``; return the paths touched."""
    text = RECIPES.read_text(encoding="utf-8")
    touched = []
    for kind, where, block in re.findall(r"<!-- (file|line): (.+?) -->\n```python\n(.*?)```", text, re.DOTALL):
        if kind == "file":
            file = target / where
            assert not file.exists(), f"{where} is taken; the recipe needs another name"
            file.write_text(block)
        else:
            where, registry = where.split()
            file = target / where
            before = file.read_text()
            after = before.replace(f"{registry} = {{\n", f"{registry} = {{\n{block}")
            assert after != before, f"{where} has no {registry}"
            file.write_text(after)
        touched.append(where)
    return touched


def test_a_method_and_a_format_are_added_by_their_recipes(tmp_path, tiny_model, picture):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "sdk", copy / "sdk", ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    shutil.copytree(ROOT / "kernels" / "fused", copy / "sdk" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bindings", copy / "sdk" / "bindings", ignore=shutil.ignore_patterns("__pycache__", "node"))
    assert follow(copy) == [
        "sdk/methods/anchored.py",
        "sdk/methods/__init__.py",
        "sdk/exports/words.py",
        "sdk/exports/__init__.py",
    ]
    picture.save(tmp_path / "picture.png")
    command = [sys.executable, "-c", USE, str(tiny_model), str(tmp_path / "picture.png"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(copy), "PERSONALIZER_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "any spreadsheet" in done.stdout
    lines = (tmp_path / "out" / "words.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["<new1>", "<new2>"]
    assert all(re.fullmatch(r"-?\d+\.\d\d", word) for line in lines for word in line.split()[1:])
