"""The notebooks of the documentation, run from the first cell to the last on the bundled model."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NAMES = ("first_pack", "compare_methods")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs a checkout: docs/notebooks is not here"),
]


def test_these_are_all():
    assert sorted(file.stem for file in FOLDER.glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    jupytext = pytest.importorskip("jupytext", reason="needs the extra docs; `make test-slow` installs it")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs; `make test-slow` installs it")
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    begin = time.monotonic()
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    print(f"{name}: {time.monotonic() - begin:.0f} s")
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) >= 2
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[-1].execution_count == len(cells)
