"""Do the papers' orderings hold here? Paired differences over scenes with 95 % intervals, one line per claim.

DisenDiff's claims are those of its section 4.2 (figure 6a) and of its ablations (figure 6b), AttenCraft's that of its
abstract. ``image`` and ``text`` are means over pictures of all concepts together and of each alone.

Usage: python -m benchmarks.study.orderings FILE.csv ... [--task two]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.measures import FEWEST, interval
from benchmarks.study.summary import by_scene, read
from sdk.miniworld import TASKS


@dataclass(frozen=True)
class Claim:
    """``arm`` has more (``>``), less (``<``) or as much (``=``) of ``measure`` than ``other``."""

    source: str
    arm: str
    sign: str
    other: str
    measure: str


def _claims() -> list[Claim]:
    paper, figure, attencraft = "DisenDiff, 4.2", "DisenDiff, 4.3", "AttenCraft"
    rivals = ("custom_diffusion", "dreambooth", "textual_inversion", "break_a_scene")
    claims = [Claim(paper, "disendiff", ">", rival, "image") for rival in rivals]
    claims += [Claim(paper, "disendiff", ">", "custom_diffusion", "image_2")]
    claims += [Claim(paper, "disendiff", "=", "custom_diffusion", f"image_{kind}") for kind in ("together", "1")]
    claims += [
        Claim(paper, "textual_inversion", "<", rival, "image") for rival in rivals if rival != "textual_inversion"
    ]
    claims += [
        Claim(paper, "textual_inversion", ">", rival, "text")
        for rival in ("disendiff", *rivals)
        if rival != "textual_inversion"
    ]
    claims += [Claim(paper, "disendiff", ">", "dreambooth", "text")]
    claims += [Claim(paper, "disendiff", "=", rival, "text") for rival in ("custom_diffusion", "break_a_scene")]
    for variant, changes in {
        "no-bind": ("<image_1", "<image_2"),
        "no-separate": ("<image_1", "<image_2"),
        "no-suppression": ("<image_2", "<text_1", "<text_2"),
        "no-gaussian": ("<image_together",),
        "twice-suppressed": ("<image",),
        "all-scales": ("<image_2",),
        "with-query": (">image", "<text"),
    }.items():
        claims += [Claim(figure, f"disendiff:{variant}", c[0], "disendiff", c[1:]) for c in changes]
    claims += [Claim(attencraft, "attencraft", ">", rival, "image") for rival in ("disendiff", *rivals)]
    return claims


def measure_of(rows: Sequence[dict[str, Any]], task: str, arm: str, measure: str) -> dict[int, float]:
    """Return an arm's figures by scene; ``image`` and ``text`` are means over what the prompts ask for."""
    if measure not in ("image", "text"):
        return by_scene(rows, task, arm, measure)
    kinds = ("together", *(str(i + 1) for i in range(TASKS[task].concepts)))
    parts = [by_scene(rows, task, arm, f"{measure}_{kind}") for kind in kinds]
    return {scene: sum(part[scene] for part in parts) / len(parts) for scene in parts[0]}


def verdict(sign: str, low: float, high: float, scenes: int) -> str:
    """``holds``, ``reversed`` or ``not significant``; a claim of equality is contradicted or not."""
    if scenes < FEWEST:
        low, high = min(low, 0.0), max(high, 0.0)  # whatever the interval says, as in the other tables
    if sign == "=":
        return "not contradicted" if low <= 0 <= high else "contradicted"
    if sign == "<":
        low, high = -high, -low
    return "holds" if low > 0 else "reversed" if high < 0 else "not significant"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--task", choices=("two", "three"), default="two")
    arguments = parser.parse_args(argv)
    rows = read(arguments.files)
    print("| claimed by | claim | difference [95 % over scenes] | scenes | here |\n|---|---|---|---|---|")
    for claim in _claims():
        first, second = (measure_of(rows, arguments.task, arm, claim.measure) for arm in (claim.arm, claim.other))
        shared = sorted(first.keys() & second.keys())
        if shared:
            mean, low, high = interval([first[scene] - second[scene] for scene in shared])
            print(
                f"| {claim.source} | {claim.measure}: {claim.arm} {claim.sign} {claim.other} | {mean:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] | {len(shared)} | {verdict(claim.sign, low, high, len(shared))} |"
            )


if __name__ == "__main__":
    main()
