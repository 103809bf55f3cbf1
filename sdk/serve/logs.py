"""A line of JSON for each event: when, what, and figures; no text of users unless it is asked for."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from ..printable import printable

_FIGURES = ("path", "status", "seconds")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": printable(record.getMessage(), 2000),
        }
        told |= {name: getattr(record, name) for name in _FIGURES if hasattr(record, name)}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to(stream: TextIO, *, prompts: bool) -> None:
    """Send the log of the server and of what it uses to a stream.

    Args:
        stream: where.
        prompts: whether notes on prompts, which quote them, are told too.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json())
    own = logging.getLogger("sdk.serve")
    own.setLevel(logging.INFO)
    own.propagate = False
    own.handlers = [handler]
    others = logging.getLogger("sdk")
    others.setLevel(logging.WARNING if prompts else logging.ERROR)
    root = logging.getLogger()
    root.handlers = [handler]
