"""Many cases in worker processes that are watched from here: a case that hangs or dies costs its worker, no more."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

from . import worker

BAD = ("foreign", "hang", "silent", "memory", "outside", "programs", "connections")
_TITLES = {
    "foreign": "foreign exceptions",
    "hang": "hangs",
    "memory": "memory over 1 GB",
    "outside": "files outside",
    "programs": "programs started",
}
HANGS_AFTER = 20.0  # seconds; a case takes milliseconds, and is tried again before it counts
STARTS_WITHIN = 600.0  # seconds; imports and the valid inputs, on a busy machine


@dataclass
class Outcome:
    """What a case did.

    Attributes:
        columns: what it did that is wrong, by column; empty: it was handled.
        message: the error's or the notes' text.
        place: where in the product, to sort by.
        seconds: it took.
    """

    kind: str
    seed: int
    index: int
    what: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    message: str = ""
    place: str = ""
    seconds: float = 0.0

    @property
    def command(self) -> str:
        """What runs this case alone."""
        return f"python -m tests.hostile --kind {self.kind} --seed {self.seed} --index {self.index}"

    def __str__(self) -> str:
        bad = "; ".join(f"{name}: {text}" for name, text in self.columns.items()) or "handled"
        return f"{self.command}\n    {self.what[:300]!r}\n    {bad}" + (f" [{self.place}]" if self.place else "")


class _Worker:
    """One process, and the case it is at."""

    def __init__(self, workspace: Path, number: int, prepared: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        build = prepared and not (workspace / "assets" / "done").exists()
        arguments = (other, str(workspace), number, build, prepared)
        self.process = context.Process(target=worker.main, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.case: tuple[str, int, int] | None = None
        self.what = ""
        self.since = monotonic()

    def ready(self) -> None:
        """Wait for the first word, which says what is wrong if something is."""
        if not self.pipe.poll(STARTS_WITHIN):
            raise TimeoutError("a worker did not start")
        try:
            problem = self.pipe.recv()
        except EOFError:
            problem = "it died"
        if problem:
            raise RuntimeError(f"a worker ended before its first case: {problem}")

    def give(self, case: tuple[str, int, int]) -> None:
        self.case, self.what, self.since = case, "", monotonic()
        self.pipe.send(case)

    def end(self) -> None:
        """End the process: by a word if it listens, else by force."""
        if self.case is None and self.process.is_alive():
            with suppress(OSError):
                self.pipe.send(None)
            self.process.join(10)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    cases: Sequence[tuple[str, int, int]],
    workspace: Path,
    workers: int = 1,
    limit: float = HANGS_AFTER,
    tries: int = 2,
    prepared: bool = True,
) -> Iterator[Outcome]:
    """Run cases and yield what they did, as they end.

    Args:
        cases: kind, seed and index of each.
        workspace: an empty folder, or one with the ``assets`` of an earlier campaign.
        workers: processes.
        limit: seconds after which a case hangs.
        tries: how often it must, as once may be the machine's fault.
        prepared: make the valid inputs and import the product first; planted cases do without.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    started = 0
    hung: Counter = Counter()
    left = list(reversed(cases))

    def start() -> _Worker:
        nonlocal started
        started += 1
        while (workspace / f"worker{started}").exists():
            started += 1
        made = _Worker(workspace, started, prepared)
        made.ready()
        return made

    pool = [start() for _ in range(max(1, min(workers, len(left))))]
    try:
        while left or any(each.case for each in pool):
            for each in pool:
                if each.case is None and left:
                    each.give(left.pop())
            busy = [each for each in pool if each.case is not None]
            ready = wait([each.pipe for each in busy], timeout=0.5)
            for each in busy:
                assert each.case is not None
                outcome = Outcome(*each.case, what=each.what, seconds=monotonic() - each.since)
                if each.pipe in ready:
                    fresh = _collect(each, outcome)
                    if fresh is None:
                        continue
                elif outcome.seconds > limit:
                    each.end()
                    fresh = True
                    hung[each.case] += 1
                    if hung[each.case] < tries:
                        left.append(each.case)
                        pool[pool.index(each)] = start()
                        continue
                    outcome.columns["hang"] = f"longer than {limit:.0f} s, {tries} times"
                else:
                    continue
                each.case = None
                if fresh:
                    each.end()
                    pool.remove(each)
                    if left:
                        pool.append(start())
                yield outcome
    finally:
        for each in pool:
            each.end()


def _collect(each: _Worker, outcome: Outcome) -> bool | None:
    """Take a worker's word; whether it needs a successor, ``None``: it has not ended."""
    try:
        word = each.pipe.recv()
        if isinstance(word, str):
            each.what = word
            return None
        for name, value in word.items():
            setattr(outcome, name, value)
    except (EOFError, OSError):
        each.process.join(10)
        outcome.columns["foreign"] = f"the process died with status {each.process.exitcode}"
        outcome.place = "died"
        return True
    return "memory" in outcome.columns


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts by kind and column."""
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    names = ["inputs", "handled", *(_TITLES.get(name, name) for name in BAD)]
    width = max(len(kind) for kind in (*kinds, "in all"))

    def line(title: str, rows: Sequence[Outcome]) -> str:
        found = Counter(name for row in rows for name in row.columns)
        counts = [len(rows), sum(not row.columns for row in rows), *(found[name] for name in BAD)]
        return f"{title:{width}}  " + "  ".join(f"{c:>{len(n)}}" for c, n in zip(counts, names, strict=True))

    lines = [f"{'':{width}}  " + "  ".join(names)]
    lines += [line(kind, [o for o in outcomes if o.kind == kind]) for kind in kinds]
    return "\n".join([*lines, line("in all", outcomes)])


def faults(outcomes: Sequence[Outcome]) -> list[tuple[int, Outcome]]:
    """Distinct faults with how often they came, most frequent first: those of one column and place are one."""
    first: dict[tuple[Any, ...], Outcome] = {}
    count: Counter = Counter()
    for outcome in outcomes:
        for column in outcome.columns:
            own = outcome.kind if column in ("silent", "hang", "memory", "outside") else ""
            key = (column, outcome.place, own)
            first.setdefault(key, outcome)
            count[key] += 1
    return [(number, first[key]) for key, number in count.most_common()]


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the table, and every outcome that is not handled, a line of JSON each."""
    bad = [json.dumps(asdict(outcome)) for outcome in outcomes if outcome.columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([table(outcomes), "", *bad]) + "\n", encoding="utf-8")
