"""What came of the jobs of a fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


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
class Status:
    """How far a fleet is.

    Attributes:
        total: rows of the table.
        done: of them with a pack.
        failed: of them without one for good.
        running: what is under way: names, and seconds since it was given to a worker.
        rate: fits that ended, a minute, in this call; 0 before the first.
    """

    total: int
    done: int
    failed: int
    running: list[tuple[str, float]] = field(default_factory=list)
    rate: float = 0.0

    @property
    def left(self) -> int:
        """Rows that nobody is at yet."""
        return max(self.total - self.done - self.failed - len(self.running), 0)


@dataclass(frozen=True)
class FleetResult:
    """What came of all jobs, in the table's order.

    Attributes:
        outcomes: one per row.
        output: where the packs are, as it was given.
        fitted: how many fits this call tried; others were done before.
        seconds: that the call took.
        worked: seconds that its fits took together.
    """

    outcomes: list[Outcome]
    output: str
    fitted: int
    seconds: float = 0.0
    worked: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        """The rows that have no pack."""
        return [each for each in self.outcomes if each.status != "done"]
