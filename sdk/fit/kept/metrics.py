"""The losses of a fit on disk: ``metrics.jsonl``, a header and a line a step.

All of it but the seconds is the same whenever the same fit is run, resumed or not.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...disk.files import reporting_full_disk
from ..identity import library_versions
from ..request import FitRequest

METRICS = "metrics.jsonl"


class MetricsLog:
    """The log in the folder of unfinished work.

    Args:
        folder: where; ``None`` keeps nothing.
        asked: whose losses they are.
        anew: begin with an empty log.
    """

    def __init__(self, folder: Path | None, asked: FitRequest, *, anew: bool):
        self._file = None if folder is None else folder / METRICS
        if self._file is not None and not anew and self._file.is_file():
            self._note_steps(asked)
        if self._file is not None and (anew or not self._file.is_file()):
            with reporting_full_disk(self._file.parent):
                self._file.unlink(missing_ok=True)
            concepts = [{"token": c.token, "class": c.noun} for c in asked.concepts]
            about = {"method": asked.method, "concepts": concepts, "seed": asked.seed, "steps": asked.config.steps}
            about |= {"settings": asked.config.to_dict(), "libraries": library_versions()}
            self._append({"header": about})

    def _note_steps(self, asked: FitRequest) -> None:
        """Say it if a fit goes on to more steps than its header says."""
        assert self._file is not None
        stated = 0
        with self._file.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, AttributeError, RecursionError):  # somebody else wrote to it
                    entry = json.loads(line)
                    stated = entry.get("header", entry.get("extended", {})).get("steps", stated)
        if stated != asked.config.steps:
            self._append({"extended": {"steps": asked.config.steps}})

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.stat().st_size if self._file is not None and self._file.is_file() else 0

    def step(self, step: int, losses: dict[str, float], rate: float, seconds: float) -> None:
        """Note a step: its losses, the largest learning rate, and how long it took."""
        self._append({"step": step, **losses, "rate": rate, "seconds": round(seconds, 4)})

    def validation(self, step: int, found: dict[str, float]) -> None:
        """Note a validation."""
        self._append({"step": step, "validation": found})

    def _append(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            with reporting_full_disk(self._file.parent), self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
