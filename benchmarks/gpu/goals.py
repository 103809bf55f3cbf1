"""What the figures should be on one GPU of the H100's kind, and whether they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .rows import Row

EAGER, COMPILED, XFORMERS = "diffusers", "diffusers, compiled, channels last", "diffusers, xformers"
CHANNELS_LAST = "diffusers, channels last"
LOOP, LOOP_COMPILED = "Custom Diffusion's loop", "Custom Diffusion's loop, compiled"
STEP, WARM, COLD = "a step", "250 steps, warm", "250 steps, cold"
CALIBRATION, NO_CALIBRATION = "a step with the calibration loss", "without it"
CUDA, TENSORRT = "ONNX Runtime, CUDA", "ONNX Runtime, TensorRT"
ONE_PACK, APART, APART_PLAIN = "rows of one pack", "a batch a pack", "diffusers, a batch a pack"
PREDICTED, BUDGET = "predicted", "memory="
EIGHT_ROWS = "sd1, 8 rows"


def drawn(batch: int, speed: str = "exact") -> str:
    """The name of a figure of drawings."""
    return f"a picture, {batch} at once, {speed}"


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        name: short.
        section: with ``what`` and ``peer`` the key of its row.
        what: see above.
        peer: see above; ``""``: the figure itself counts, else the peer's over ours.
        bound: of the figure, at most; of the ratio, at least.
    """

    name: str
    section: str
    what: str
    peer: str
    bound: float

    @property
    def text(self) -> str:
        """As tables show it."""
        return f"{self.name}: at least {self.bound:g} x" if self.peer else f"{self.name}: at most {self.bound:g}"

    def figure(self, row: Row) -> float | None:
        """What of a row it is about."""
        return row.ratio if self.peer else row.value

    def verdict(self, row: Row | None) -> str:
        """Return ``"met"``, ``"missed"`` or ``"not measured"``."""
        figure = None if row is None else self.figure(row)
        if figure is None:
            return "not measured"
        return "met" if (figure >= self.bound if self.peer else figure <= self.bound) else "missed"


GOALS = (
    Goal("F1", "F", WARM, "", 15.0),
    Goal("F2", "F", STEP, LOOP, 2.5),
    Goal("F3", "F", STEP, LOOP_COMPILED, 1.3),
    Goal("F4", "F", CALIBRATION, NO_CALIBRATION, 0.98),
    Goal("F5", "F", COLD, "", 45.0),
    Goal("F7", "memory", EIGHT_ROWS, "", 16.0),
    Goal("G1", "G", drawn(1), "", 0.5),
    Goal("G2", "G", drawn(1), EAGER, 1.9),
    Goal("G2", "G", drawn(1), COMPILED, 1.0),
    Goal("G2", "O", "merged", CUDA, 1.1),
    Goal("G2", "O", "merged", TENSORRT, 0.9),
    Goal("G3", "G", drawn(16), "", round(1 / 3.5, 3)),
    Goal("G4", "M", "16 packs in one batch", ONE_PACK, 0.98),
    Goal("G5", "M", "16 packs in one batch", APART, 1.7),
    Goal("G7", "G", drawn(1, "fast"), "exact", 3.0),
    *(
        Goal("M1", "memory", f"{family}, memory={budget}", BUDGET, 1.0)
        for family in ("sd1", "sd2", "sdxl")
        for budget in (8, 12, 16, 24)
        if (family, budget) != ("sdxl", 8)  # the weights alone take 7 GB: it is refused
    ),
)


def goal_of(row: Row) -> Goal | None:
    """Return the goal of a row, if it has one."""
    return next((goal for goal in GOALS if (goal.section, goal.what, goal.peer) == row.key), None)


def by_goal(rows: Iterable[Row]) -> list[tuple[Goal, Row | None]]:
    """Return every goal with its row, or ``None``."""
    found = {row.key: row for row in rows}
    return [(goal, found.get((goal.section, goal.what, goal.peer))) for goal in GOALS]
