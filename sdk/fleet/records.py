"""What a fleet keeps in its output of jobs that are done, so that a later call leaves them alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ..disk.reading import parse_json
from ..errors import SdkError
from ..pack import MANIFEST
from .outcomes import Outcome
from .storage import Storage

PACKS, RECORDS = "packs", "jobs"  # folders in a fleet's output
_AT_ONCE = 1000  # records that are read together


def record(storage: Storage, outcome: Outcome) -> None:
    """Keep what came of a job that is done."""
    storage.write(f"{RECORDS}/{outcome.id}.json", json.dumps(plain(outcome)).encode())


def recorded(storage: Storage, ids: Sequence[str]) -> dict[str, Outcome]:
    """Return what is kept of jobs, by id; those that were not done, or whose pack is gone, are not in it."""
    there = storage.names(RECORDS)
    wanted = [id for id in dict.fromkeys(ids) if f"{id}.json" in there]
    found = {}
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        contents = storage.read_all(f"{RECORDS}/{id}.json" for id in some)
        for id in some:
            outcome = _outcome(id, contents.get(f"{RECORDS}/{id}.json"))
            # In a bucket each look is a request, and a record is only written when the pack is there.
            if outcome is not None and (storage.local is None or storage.has(f"{PACKS}/{id}/{MANIFEST}")):
                found[id] = outcome
    return found


def named(outcome: Outcome, name: str) -> Outcome:
    """Return what came of a job under the name of one of the rows that asked for it."""
    return replace(outcome, name=name)


def plain(row: Any) -> dict[str, Any]:
    """Return an outcome's values by name, figures that are none left out."""
    return {k: "" if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}


def _outcome(id: str, data: bytes | None) -> Outcome | None:
    if data is None:
        return None
    try:
        kept = parse_json(data, "a record", advice="remove it")
        loss, seconds = (float(kept[name] or "nan") for name in ("loss", "seconds"))
        content = str(kept["content_sha256"])
    except (SdkError, KeyError, TypeError, ValueError):  # damaged: the pack says what is needed
        return None
    return Outcome(id, "done", "", id, f"{PACKS}/{id}", loss, seconds, content)
