"""Rows and goals as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .goals import by_goal, goal_of
from .rows import MACHINE, Row

SECTIONS = {
    "F": "A fit of Stable Diffusion 1.5: 512 pixels, 8 rows, bfloat16",
    "G": "Drawing with Stable Diffusion 1.5: 512 pixels, 50 steps of DDIM, seconds a picture",
    "O": "The exported folder, one picture in float16",
    "M": "Packs that share a batch, seconds of all their pictures",
    "memory": "Memory at the peak of a fit, and Stable Diffusion XL at 1024 pixels",
}


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.3g} {unit}".strip()


def results(rows: Iterable[Row], judged: bool = True) -> str:
    """One table a section: ours, the peer's, how many times ours that is, the goal and, if ``judged``, the verdict."""
    lines: list[str] = []
    by_section: dict[str, list[Row]] = {}
    for row in rows:
        by_section.setdefault(row.section, []).append(row)
    for section, mine in by_section.items():
        lines += [f"{SECTIONS[section]}:", ""]
        lines += [
            "| what | ours | peer | the peer's | x ours | MFU | goal | | |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in mine:
            goal = goal_of(row)
            cells = (
                row.what,
                _number(row.value, row.unit) or "not measured",
                row.peer,
                _number(row.peer_value, row.unit) or ("not measured" if row.peer else ""),
                "" if row.ratio is None else f"{row.ratio:.2f}",
                "" if row.mfu is None else f"{row.mfu:.0%}",
                "" if goal is None else goal.text,
                "" if goal is None or not judged else goal.verdict(row),
                row.note,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def goals(rows: Iterable[Row]) -> str:
    """Every goal with its figure; "not measured" where there is none."""
    lines = ["| goal | figure | measured | goal | |", "|---|---|---|---|---|"]
    for goal, row in by_goal(rows):
        what = f"{SECTIONS[goal.section].split(':')[0].split(',')[0]}: {goal.what}"
        against = f"; {goal.peer} over ours" if goal.peer else ""
        figure = None if row is None else goal.figure(row)
        verdict = goal.verdict(row)
        measured = "not measured" if figure is None else f"{figure:.3g}"
        bound = f"{'at least' if goal.peer else 'at most'} {goal.bound:g}"
        mark = "" if figure is None else verdict
        lines.append(f"| {goal.name} | {what}{against} | {measured} | {bound} | {mark} |")
    return "\n".join(lines)


def document(found: Mapping[tuple[str, ...], list[Row]]) -> str:
    """What the documentation shows of the results: tables and goals by machine, or the goals alone."""
    parts = []
    for machine, rows in found.items():
        device, *versions = machine
        named = ", ".join(f"{p} {v}" for p, v in zip(MACHINE[1:], versions, strict=True) if v != "none")
        parts += [f"{device}, {named}:", "", results(rows), goals(rows), ""]
    return "\n".join(parts) if parts else goals([])
