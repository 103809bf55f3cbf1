"""Which learning rates tuning scenes choose for each method: a table of methods and multiples of their own rates.

Arms are called ``METHOD rates x 2``. The highest sum of recognised alone and together chooses; of equal ones a method's
own rates, then the lower.

Usage: python -m benchmarks.study.rates benchmarks/results/tuning-methods.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study.summary import by_scene, read

_MARK = " rates x "


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, of scenes of two concepts."""
    named = [arm.split(_MARK) for arm in dict.fromkeys(row["arm"] for row in rows)]
    multiples = sorted({multiple for _, multiple in named}, key=float)
    lines = [f"| recognised alone, together | {' | '.join(f'{each} of the rates' for each in multiples)} | chosen |"]
    lines.append("|---" * (len(multiples) + 2) + "|")
    for method in dict.fromkeys(method for method, _ in named):
        found = {}
        for multiple in multiples:
            arm = method + _MARK + multiple
            both = [by_scene(rows, "two", arm, measure) for measure in ("recognised", "together")]
            found[multiple] = tuple(fmean(values.values()) for values in both)
        chosen = max(multiples, key=lambda each: (round(sum(found[each]), 6), each == "1", -float(each)))
        cells = [f"{alone:.2f}, {together:.2f}" for alone, together in found.values()]
        lines.append(f"| {method} | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    print(table(read(parser.parse_args(argv).files)))


if __name__ == "__main__":
    main()
