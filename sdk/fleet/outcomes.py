"""What came of the jobs of a fleet: a record of each, a table and a page of all."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..disk.files import write_bytes
from ..disk.reading import read_json
from ..errors import SdkError
from ..pack import MANIFEST

PACKS, RECORDS = "packs", "jobs"  # folders in a fleet's output
TABLE, PAGE = "results.csv", "summary.html"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1e1e23; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
.failed { background: #fbe6e4; } td.number { text-align: right; }
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one job.

    Attributes:
        name: what reports call it.
        status: ``"done"`` or ``"failed"``.
        reason: of a failure, one sentence.
        id: of the job; empty if it has none, because a file is missing.
        pack: where the pack is, relative to the output.
        loss: the mean of the fit's last losses.
        seconds: that it took; of an earlier call, if that did it.
        content_sha256: see :meth:`sdk.ConceptPack.content_hash`.
    """

    name: str
    status: str
    reason: str = ""
    id: str = ""
    pack: str = ""
    loss: float = math.nan
    seconds: float = math.nan
    content_sha256: str = ""


@dataclass(frozen=True)
class FleetResult:
    """What came of all jobs, in the table's order.

    Attributes:
        outcomes: one per row.
        folder: the output.
        fitted: how many fits this call did; others were done before.
    """

    outcomes: list[Outcome]
    folder: Path
    fitted: int

    @property
    def failed(self) -> list[Outcome]:
        """The rows that have no pack."""
        return [each for each in self.outcomes if each.status != "done"]

    def write(self) -> None:
        """Write ``results.csv`` and ``summary.html`` into the output."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [each.name for each in fields(Outcome)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_cells(each) for each in self.outcomes)
        write_bytes(self.folder / TABLE, text.getvalue().encode())
        write_bytes(self.folder / PAGE, _page(self).encode())


def record(folder: Path, outcome: Outcome) -> None:
    """Keep what came of a job that is done."""
    write_bytes(folder / RECORDS / f"{outcome.id}.json", json.dumps(_plain(outcome)).encode())


def recorded(folder: Path, job: str, name: str) -> Outcome | None:
    """Return what is kept of a job that was done; ``None``: it was not, or its pack is gone."""
    file = folder / RECORDS / f"{job}.json"
    if not file.is_file() or not (folder / PACKS / job / MANIFEST).is_file():
        return None
    try:
        kept = read_json(file)
        loss, seconds = (float(kept[name] or "nan") for name in ("loss", "seconds"))
        content = str(kept["content_sha256"])
    except (SdkError, KeyError, TypeError, ValueError):  # damaged: the pack says what is needed
        return None
    return Outcome(name, "done", "", job, f"{PACKS}/{job}", loss, seconds, content)


def _plain(outcome: Outcome) -> dict[str, Any]:
    """Of one outcome, figures that are none left out."""
    return {k: "" if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(outcome).items()}


def _cells(outcome: Outcome) -> dict[str, Any]:
    """The same for a spreadsheet, which would take a text that begins like a formula for one."""
    cells = _plain(outcome)
    return {k: f"'{v}" if isinstance(v, str) and v.startswith(("=", "+", "-", "@")) else v for k, v in cells.items()}


def _page(result: FleetResult) -> str:
    """A page with the worst first: what failed, then by the loss that a fit ended with."""
    done = [each for each in result.outcomes if each.status == "done"]
    done.sort(key=lambda each: -each.loss if not math.isnan(each.loss) else math.inf)
    rows = "".join(_row(each) for each in (*result.failed, *done))
    return (
        f"<!doctype html><meta charset=utf-8><title>Personalizer fleet</title><style>{_STYLE}</style>"
        f"<h1>{len(done)} of {len(result.outcomes)} fits done, {len(result.failed)} failed</h1>"
        "<table><tr><th>fit<th>status<th>last losses<th>seconds<th>pack or reason</tr>" + rows + "</table>\n"
    )


def _row(outcome: Outcome) -> str:
    def figure(value: float, form: str) -> str:
        return f"<td class=number>{'' if math.isnan(value) else format(value, form)}"

    cells: Sequence[str] = (
        f"<td>{html.escape(outcome.name)}<td>{outcome.status}",
        figure(outcome.loss, ".3f"),
        figure(outcome.seconds, ".0f"),
        f"<td>{html.escape(outcome.reason or outcome.pack)}",
    )
    return f"<tr class={outcome.status}>{''.join(cells)}</tr>"
