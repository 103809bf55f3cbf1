"""Rows of a study, kept in a CSV file after every one, and shares of the scenes for several processes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.measures import COLUMNS


class Record:
    """A CSV file that an interrupted run goes on with, if it is repeated with the same settings.

    Args:
        path: the file; made when the first row comes.
        settings: written beside it.

    Raises:
        SystemExit: the file has rows measured with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.rows: list[dict[str, Any]] = list(csv.DictReader(path.open(newline=""))) if path.is_file() else []
        beside = path.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.rows:
            write_bytes(beside, json.dumps(settings, indent=2).encode())
        elif not beside.is_file() or json.loads(beside.read_text()) != settings:
            raise SystemExit(f"{path} was measured with other settings, see {beside}; choose another --csv")

    def missing(self, task: str, scene: int, arms: Sequence[str]) -> list[str]:
        """Return those arms of a scene that have no row yet."""
        done = {r["arm"] for r in self.rows if (task_of(r), int(r["scene"])) == (task, scene)}
        return [arm for arm in arms if arm not in done]

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_bytes(self.path, text.getvalue().encode())
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def task_of(row: dict[str, Any]) -> str:
    """Return a row's task; files of before there were tasks have scenes of two and three concepts alone."""
    return row.get("task") or {2: "two", 3: "three"}[int(row["concepts"])]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is afterwards the old or the new one, never a part."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    os.replace(beside, path)


def share(count: int, part: str) -> range:
    """Return the scenes of ``"I/N"``: every N-th of ``count``, from the I-th on."""
    first, parts = (int(number) for number in part.split("/"))
    return range(first - 1, count, parts)
