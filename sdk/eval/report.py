"""The evaluation's page: one HTML file with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..disk.files import prepare_output_folder, write_bytes
from ..errors import OutputError
from ..images.contact_sheet import labelled_grid, tile
from ..images.image_io import png
from .drawing import Drawn
from .evaluation import EvaluationReport
from .scores import Scores

PAGE, FILES = "report.html", ("metrics.json", "gallery.png")
MARK = "<title>Personalizer "  # at the beginning of every page
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1e1e23; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: .6rem; }
.row img, .reference { image-rendering: pixelated; width: 112px; height: 112px; border-radius: 4px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
.sheet { max-width: 100%; }
p.prompt { margin: .4rem 0 .2rem; font-size: .9rem; }
.good { background: #e3f4e6; } .bad { background: #fbe6e4; }
"""


def save_report(report: EvaluationReport, folder: str | Path) -> Path:
    """Write ``report.html``, ``metrics.json`` and ``gallery.png``; return the page's path.

    Raises:
        OutputError: the folder cannot be written.
    """
    destination = prepare_output_folder(folder)
    check_report_folder(destination, FILES)
    write_bytes(destination / "metrics.json", (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    write_bytes(destination / "gallery.png", png(gallery(report)))
    page = destination / "report.html"
    write_bytes(page, render_page(report).encode())
    return page


def check_report_folder(folder: Path, names: Sequence[str]) -> None:
    """Raise :class:`OutputError` if files of a report would replace some that are no report's of this package."""
    page = folder / PAGE
    ours = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")[:400]
    there = [name for name in (PAGE, *names) if (folder / name).exists()]
    if there and not ours:
        raise OutputError(f"{folder} holds other files ({there[0]}); give an empty or a new folder for the report")


def gallery(report: EvaluationReport) -> Image.Image:
    """The reference picture, then a row of pictures for each prompt."""
    rows, labels = (
        [[report.reference]],
        ["reference: " + ", ".join(report.looks or [c.phrase for c in report.concepts])],
    )
    for drawn in report.fitted_pictures:
        rows.append(drawn.images[:6])
        labels.append(drawn.prompt)
    return labelled_grid(rows, labels)


def render_page(report: EvaluationReport) -> str:
    """Return the page as HTML."""
    names = [c.phrase for c in report.concepts]
    pairs = "".join(
        f'<div class="pair"><div>{_pictures(a)}</div><div>{_pictures(b)}</div></div>'
        for a, b in zip(report.fitted_pictures, report.untouched_pictures, strict=True)
    )
    looks = "".join(
        f"<li>{html.escape(n)}: {html.escape(look)}</li>" for n, look in zip(names, report.looks, strict=False)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Personalizer evaluation</title><style>{STYLE}</style></head><body>
<h1>Did the concepts come apart?</h1>
<p>The reference picture, and what the scorer reads off it:</p>
<img class="reference" alt="reference picture" src="{embedded(report.reference)}"><ul>{looks}</ul>
<h2>Asked for one concept alone</h2>
<p>Row: the concept asked for. On the diagonal its fidelity (1 is best); elsewhere how much of the other concept
leaks into it (0 is best). In brackets the untouched model, asked for the class words alone.</p>
{_matrix(names, report.fitted, report.untouched)}
<h2>All figures</h2>
<table><tr><th></th><th>fitted</th><th>untouched</th></tr>{_summary(report)}</table>
<h2>Pictures</h2><p>Left with the pack, right the untouched model with the same noise.</p>{pairs}
</body></html>
"""


def _matrix(names: list[str], fitted: Scores, untouched: Scores) -> str:
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    body = ""
    for i, name in enumerate(names):
        cells = ""
        for j in range(len(names)):
            value = fitted.matrix[i][j]
            good = value >= 0.5 if i == j else value <= 0.25
            cells += f'<td class="{"good" if good else "bad"}">{value:.2f} ({untouched.matrix[i][j]:.2f})</td>'
        body += f"<tr><td>{html.escape(name)}</td>{cells}</tr>"
    return f"<table><tr><th>asked for</th>{head}</tr>{body}</table>"


def _summary(report: EvaluationReport) -> str:
    rows = [("mean fidelity", report.fitted.fidelity, report.untouched.fidelity)]
    for i, concept in enumerate(report.concepts):
        for name in ("recognised", "once"):
            fitted, untouched = getattr(report.fitted, name), getattr(report.untouched, name)
            if fitted and untouched:
                rows.append((f"{html.escape(concept.phrase)} alone: {name}", fitted[i], untouched[i]))
    if report.fitted.leakage is not None and report.untouched.leakage is not None:
        rows.append(("mean leakage", report.fitted.leakage, report.untouched.leakage))
    if report.fitted.together is not None and report.untouched.together is not None:
        rows.append(("all together: right pictures", report.fitted.together, report.untouched.together))
    for name, what in (
        ("collapse", "all together: subjects not recognised"),
        ("missing", "an object is missing"),
        ("doubled", "an object too many"),
        ("exchange", "one wears another's looks"),
    ):
        fitted, untouched = getattr(report.fitted, name), getattr(report.untouched, name)
        if fitted is not None and untouched is not None:
            rows.append((what, fitted, untouched))
    rows.append(("text alignment", report.fitted.text_alignment, report.untouched.text_alignment))
    return "".join(f"<tr><td>{name}</td><td>{a:.2f}</td><td>{b:.2f}</td></tr>" for name, a, b in rows)


def _pictures(drawn: Drawn) -> str:
    images = "".join(f'<img alt="{html.escape(drawn.prompt)}" src="{embedded(image)}">' for image in drawn.images)
    return f'<p class="prompt">{html.escape(drawn.prompt)}</p><div class="row">{images}</div>'


def embedded(image: Image.Image) -> str:
    """A picture as a data URL for a page, at most 256 pixels wide."""
    small = image if image.width <= 256 else tile(image, 256)
    return "data:image/png;base64," + base64.b64encode(png(small)).decode()
