"""Notebooks are percent scripts (``# %%``) in docs/notebooks; the site shows them as pages and offers the notebook."""

from __future__ import annotations

import jupytext


def to_page(script: str, name: str) -> str:
    """Return a notebook as a page; it is not run.

    Args:
        script: the percent script.
        name: its file's, without the ending.
    """
    parts = []
    for cell in jupytext.reads(script, "py:percent").cells:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
    download = (
        f"*The page shows the cells alone. Run them to see what they give: [notebook]({name}.ipynb), "
        f"[script]({name}.py).*"
    )
    return "\n\n".join([parts[0], download, *parts[1:]]) + "\n"


def to_notebook(script: str) -> str:
    """Return a notebook as an ``.ipynb`` file's text, without output."""
    notebook = jupytext.reads(script, "py:percent")
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # by default random: two builds would differ
    return jupytext.writes(notebook, "ipynb")
