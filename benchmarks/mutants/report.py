"""The report of a mutation run: one line a mutant in a CSV file, and what they add up to as Markdown."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .sample import BY_HAND, Mutant

COLUMNS = ["mutant", "room", "file", "line", "where", "operator", "change", "verdict", "by", "tests", "seconds"]


def read(file: Path) -> list[dict[str, str]]:
    """Return the rows of a report, none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def add(file: Path, mutant: Mutant, verdict: str, by: str, tests: int, seconds: float) -> None:
    """Append a row."""
    new = not file.is_file()
    with file.open("a", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        said = [mutant.name, mutant.room, mutant.file, mutant.line, mutant.where, mutant.operator, mutant.change]
        writer.writerow([*said, verdict, by, tests, f"{seconds:.1f}"])


def summary(rows: Sequence[dict[str, str]]) -> str:
    """Return the shares killed by room and by kind of change, then those written by hand, then the survivors."""
    judged = [row for row in rows if row["verdict"] != "error"]
    drawn = [row for row in judged if row["operator"] != BY_HAND]
    by_hand = [row for row in judged if row["operator"] == BY_HAND]
    parts = [_table("room", drawn), _table("operator", drawn)]
    if len(judged) < len(rows):
        parts.append(f"{len(rows) - len(judged)} could not be judged.")
    if by_hand:
        lines = [f"| {_code(row['change'])} | {row['verdict']} | {row['by']} |" for row in by_hand]
        parts.append("\n".join(["| written by hand | verdict | by |", "|---|---|---|", *lines]))
    lines = [
        f"| {row['mutant']} | {row['file']}:{row['line']} | {_code(row['change'])} | {row['tests']} |"
        for row in sorted(drawn, key=lambda r: (r["file"], int(r["line"])))
        if row["verdict"] == "survived"
    ]
    parts.append("\n".join(["| survivor | where | change | tests run |", "|---|---|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def _table(column: str, rows: Sequence[dict[str, str]]) -> str:
    lines = [
        f"| {column} | mutants | killed | of these by time | survived | share killed |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_line(name, [r for r in rows if r[column] == name]) for name in _names(r[column] for r in rows)]
    return "\n".join([*lines, _line("in all", rows)])


def _line(name: str, rows: Sequence[dict[str, str]]) -> str:
    count = Counter(row["verdict"] for row in rows)
    killed = count["killed"] + count["timeout"]
    share = f"{100 * killed / len(rows):.1f} %" if rows else ""
    return f"| {name} | {len(rows)} | {killed} | {count['timeout']} | {count['survived']} | {share} |"


def _names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(sorted(names)))


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"
