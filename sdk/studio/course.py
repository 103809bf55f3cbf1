"""How far a fit has come, as the page shows it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from PIL import Image

from ..concepts import Concept
from ..library import Job
from ..library.jobs import CANCELLED, DONE, FAILED, RUNNING, WAITING
from ..serve.fitting import Course
from .telling import bar, duration, text
from .words import names_of

_POINTS = 120  # of each line of the plot
_PHASES = {
    "draw": "Drawing what the model knows of such things",
    "priors": "Drawing what the model knows of such things",
    "masks": "Finding where they are",
    "words": "Looking for words to start from",
    "fit": "Learning",
    "validate": "Learning: looking at samples",
    "sheets": "Drawing samples",
}
_SAID = {
    WAITING: "Waits for its turn",
    DONE: "Learned",
    FAILED: "Did not work",
    CANCELLED: "Stopped; it can go on from there",
}


def job_line(job: Job) -> str:
    """Return a fit in one line: number, name, concepts, how it is."""
    said = "learns" if job.status == RUNNING else _SAID[job.status].split(";")[0].lower()
    return f"{job.id}: {job.asked['name']} ({', '.join(job.asked['concepts'])}) — {said}"


def job_words(job: Job, course: Course) -> str:
    """Return how a fit is, with a bar while it runs."""
    name = text(job.asked["name"])
    if job.status != RUNNING:
        kind = "problem" if job.status == FAILED else "note"
        more = f": {text(job.message)}" if job.message else ""
        further = ""
        if job.status == DONE:
            words = text(" and ".join(_names(job)))
            further = f"<p>Go to <em>Draw</em> and write of <strong>{words}</strong>.</p>"
        said = f"<p><strong>{name}</strong>: {_SAID[job.status]}{more}.</p>{further}"
        return f'<div class="{kind}" role="status">{said}</div>'
    event = course.event
    label = _PHASES.get(event.phase, event.phase)
    share = event.done / max(event.total, 1)
    beside = f" · step {event.done} of {event.total}" if event.phase == "fit" else ""
    if event.phase == "fit" and event.seconds_left is not None:
        beside += f" · {duration(event.seconds_left)} left"
    return bar(f"{job.asked['name']}: {label}", share, beside)


def losses_of(course: Course) -> pd.DataFrame:
    """Return the losses so far, a mean for each of a few stretches of steps."""
    rows = course.losses[:]
    stretch = max(1, len(rows) // _POINTS)
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows) - stretch + 1, stretch):
        part = rows[start : start + stretch]
        for name in part[-1][1]:
            values = [losses[name] for _, losses in part if name in losses]
            found.append({"step": part[-1][0], "loss": sum(values) / len(values), "kind": name})
    return pd.DataFrame(found, columns=["step", "loss", "kind"])


def samples_of(job: Job, course: Course) -> list[tuple[Image.Image, str]]:
    """Return the samples so far and what each shows."""
    words = _names(job)
    labels = words if len(words) == 1 else [*words, "together"]
    pairs = zip(course.samples, labels, strict=False)  # the next samples may come meanwhile
    return [(image, f"{label}, after {course.looked} steps") for image, label in pairs]


def _names(job: Job) -> list[str]:
    return names_of([Concept(noun) for noun in job.asked["concepts"]])
