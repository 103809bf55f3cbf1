"""The comparison's page, table and contact sheet."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..disk.files import prepare_output_folder, write_bytes
from ..errors import OutputError
from ..eval.report import STYLE, check_report_folder, embedded
from ..images.contact_sheet import labelled_grid
from ..images.image_io import png
from ..pack import MANIFEST
from .runs import Comparison, Result

FILES = ("comparison.json", "comparison.md", "sheet.png")
_PICTURES = 6  # of each prompt in a row of the sheet


def save_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write ``report.html``, ``comparison.json`` and ``.md``, ``sheet.png`` and the packs; return the page's path.

    Raises:
        OutputError: the folder cannot be written.
    """
    destination = prepare_output_folder(folder)
    check_comparison_folder(destination, [result.name for result in comparison.results if result.pack is not None])
    write_bytes(destination / "comparison.json", (json.dumps(comparison.to_dict(), indent=2) + "\n").encode())
    write_bytes(destination / "comparison.md", (comparison.table() + "\n").encode())
    write_bytes(destination / "sheet.png", png(contact_sheet(comparison)))
    for result in comparison.results:
        if result.pack is not None:
            result.pack.save_pretrained(_pack_folder(destination, result.name))
    page = destination / "report.html"
    write_bytes(page, render(comparison).encode())
    return page


def check_comparison_folder(folder: Path, arms: Sequence[str]) -> None:
    """Raise :class:`OutputError` if the files or packs of a comparison would replace what is none of its kind."""
    check_report_folder(folder, FILES)
    for arm in arms:
        pack = _pack_folder(folder, arm)
        if pack.is_dir() and any(pack.iterdir()) and not (pack / MANIFEST).is_file():
            raise OutputError(f"{pack} holds other files; give an empty or a new folder for the comparison")


def _pack_folder(folder: Path, arm: str) -> Path:
    return folder / "packs" / arm.replace(":", "-")


def contact_sheet(comparison: Comparison) -> Image.Image:
    """A row per method: the first pictures of each concept alone, then of all together; the same noise in a column."""
    rows, labels = [[comparison.reference]], ["reference: " + ", ".join(c.phrase for c in comparison.concepts)]
    for result in comparison.results:
        rows.append(_first_pictures(result))
        labels.append(result.name)
    return labelled_grid(rows, labels)


def render(comparison: Comparison) -> str:
    """Return the page as HTML."""
    names = [c.phrase for c in comparison.concepts]
    pictures = "".join(_section(result) for result in comparison.results)
    sheet = f"data:image/png;base64,{base64.b64encode(png(contact_sheet(comparison))).decode()}"
    matrices = "".join(f"<h3>{html.escape(r.name)}</h3>{_matrix(names, r.scores.matrix)}" for r in comparison.results)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Personalizer comparison</title><style>{STYLE}</style></head><body>
<h1>Which method keeps them apart?</h1>
<img class="reference" alt="reference picture" src="{embedded(comparison.reference)}">
<p>One picture, the same prompts, seeds and noise for every method. Fidelity of each concept asked for alone and
both together: 1 is best. Once: the share of pictures of one concept that show one of its class, not two. Leakage:
how much of another concept shows where only one was asked for; 0 is best.</p>
{_table(comparison)}
<h2>Leakage</h2><p>Row: the concept asked for alone; column: how much of each concept shows.</p>{matrices}
<h2>Pictures</h2>
<p>The first of each method; the same noise in a column.</p>
<img class="sheet" alt="a row of pictures for each method" src="{sheet}">
<h2>All pictures</h2>{pictures}
</body></html>
"""


def _table(comparison: Comparison) -> str:
    header, _, *rows = [line.strip("| ").split(" | ") for line in comparison.table().splitlines()]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in ("", *header))
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _matrix(names: list[str], matrix: list[list[float]]) -> str:
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{value:.2f}</td>" for value in row) + "</tr>"
        for name, row in zip(names, matrix, strict=True)
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _section(result: Result) -> str:
    shown = ""
    for drawn in result.drawn:
        images = "".join(f'<img alt="{html.escape(drawn.prompt)}" src="{embedded(i)}">' for i in drawn.images)
        shown += f'<p class="prompt">{html.escape(drawn.prompt)}</p><div class="row">{images}</div>'
    return f"<details><summary>{html.escape(result.name)}</summary>{shown}</details>"


def _first_pictures(result: Result) -> list[Image.Image]:
    by_asked: dict[tuple[int, ...], list[Image.Image]] = {}
    for drawn in result.drawn:
        by_asked.setdefault(drawn.asked, []).extend(drawn.images)
    each = max(2, _PICTURES // len(by_asked))
    return [image for images in by_asked.values() for image in images[:each]]
