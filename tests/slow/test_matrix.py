"""The table of what works with which base model, tried again and compared with the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families import matrix, tiny

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "base-models.md"


@pytest.fixture(scope="module")
def page():
    """The table of the docs: by model and thing that is done."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if all(title in line for title in matrix.TITLES.values()))
    titles = [cell.strip() for cell in lines[first].strip("|").split("|")][1:]
    found = {title: {} for title in titles}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        done, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for title, cell in zip(titles, cells, strict=True):
            found[title][done] = cell
    return found


@pytest.mark.parametrize("name", tiny.MODELS)
def test_every_cell_is_as_the_docs_say(page, name):
    found = matrix.tried(name)
    print(matrix.table({name: found}))
    assert found == page[matrix.TITLES[name]]
    assert set(found.values()) <= set(matrix.FINE)
