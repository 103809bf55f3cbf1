"""A fleet's tables and page: what came of each row, and while it runs how far it is."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from .outcomes import Outcome, Status
from .records import plain
from .storage import Storage

TABLE, PAGE = "results", "summary.html"
_OFTEN = 5  # seconds between two looks of a browser at a page of a fleet that runs
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1e1e23; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
.failed { background: #fbe6e4; } .running { background: #eaf2fb; } td.number { text-align: right; }
"""


def write_reports(storage: Storage, outcomes: Sequence[Outcome], status: Status, ended: bool) -> None:
    """Write ``results.csv``, ``results.parquet`` (where pyarrow is) and ``summary.html`` into the output.

    Args:
        storage: the output.
        outcomes: of the rows that have ended, in the table's order.
        status: how far the fleet is.
        ended: whether nothing more comes; else the page looks for itself again.
    """
    write_tables(storage, TABLE, Outcome, outcomes)
    storage.write(PAGE, _page(outcomes, status, ended).encode())


def write_tables(storage: Storage, name: str, kind: type, rows: Sequence[Any]) -> None:
    """Write things of one kind as ``name.csv``, and where pyarrow is as ``name.parquet``, a column for each value."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [each.name for each in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(each) for each in rows)
    storage.write(f"{name}.csv", text.getvalue().encode())
    columns = _parquet(kind, rows)
    if columns is not None:
        storage.write(f"{name}.parquet", columns)


def line(status: Status) -> str:
    """Return how far a fleet is, in one line."""
    parts = [f"{status.done} of {status.total} done", f"{status.failed} failed"]
    if status.running or status.left:
        parts += [f"{len(status.running)} running", f"{status.left} left"]
    return ", ".join(parts) + (f", {status.rate:.1f} a minute" if status.rate else "")


def _cells(row: Any) -> dict[str, Any]:
    """Values for a spreadsheet, which would take a text that begins like a formula for one."""
    cells = plain(row)
    return {k: f"'{v}" if isinstance(v, str) and v.startswith(("=", "+", "-", "@")) else v for k, v in cells.items()}


def _parquet(kind: type, rows: Sequence[Any]) -> bytes | None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        return None
    kinds = {"float": pyarrow.float64(), "int": pyarrow.int64(), "str": pyarrow.string()}
    schema = pyarrow.schema([(each.name, kinds[str(each.type)]) for each in fields(kind)])
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(each) for each in rows], schema), buffer)
    return buffer.getvalue().to_pybytes()


def _page(outcomes: Sequence[Outcome], status: Status, ended: bool) -> str:
    """A page with the worst first: what failed, then by the loss that a fit ended with."""
    failed = [each for each in outcomes if each.status != "done"]
    done = [each for each in outcomes if each.status == "done"]
    done.sort(key=lambda each: -each.loss if not math.isnan(each.loss) else math.inf)
    running = "".join(
        f"<tr class=running><td>{html.escape(name)}<td>running<td><td class=number>{seconds:.0f}<td></tr>"
        for name, seconds in status.running
    )
    again = "" if ended else f"<meta http-equiv=refresh content={_OFTEN}>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>{again}<title>Personalizer fleet</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(line(status))}</h1>"
        "<table><tr><th>fit<th>status<th>last losses<th>seconds<th>pack or reason</tr>"
        + running
        + "".join(_row(each) for each in (*failed, *done))
        + "</table>\n"
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
