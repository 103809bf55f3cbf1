"""Hostile inputs from the command line: one of them, a kind, or a whole campaign.

``python -m tests.hostile --kind packs --seed 3 --index 17`` runs one again and shows what it is and what it does;
``python -m tests.hostile --count 1000 --seed 0 --report out/hostile.txt`` runs many and prints the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .campaign import HANGS_AFTER, faults, run, table, write
from .kinds import KINDS, plan
from .planted import PLANTED, UNTOUCHED

PLANTED_KINDS = [f"planted {name}" for name in (*PLANTED, *UNTOUCHED)]


def main() -> int:
    """Return 1 if a case is not handled."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument(
        "--kind",
        choices=[*KINDS, *PLANTED_KINDS],
        action="append",
        metavar="KIND",
        help=f"these alone: {', '.join(KINDS)}",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, help="one case alone")
    parser.add_argument("--count", type=int, default=1000, help="cases in all kinds together; default 1000")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=HANGS_AFTER, help="seconds after which a case hangs")
    parser.add_argument("--report", type=Path, help="file for the table and every case that is not handled")
    arguments = parser.parse_args()
    cases = plan(arguments.count, arguments.seed)
    if arguments.kind:
        cases = [case for case in cases if case[0] in arguments.kind]
    if arguments.index is not None:
        if len(arguments.kind or ()) != 1:
            parser.error("--index needs one --kind")
        cases = [(arguments.kind[0], arguments.seed, arguments.index)]
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        outcomes = []
        for outcome in run(cases, Path(folder), arguments.workers, arguments.limit):
            outcomes.append(outcome)
            if sys.stderr.isatty():
                print(f"\r{len(outcomes)} of {len(cases)}", end="", file=sys.stderr)
    for number, first in faults(outcomes):
        print(f"{number} times: {first}")
    if len(outcomes) == 1:
        print(outcomes[0], "\n   ", repr(outcomes[0].message))
    print(table(outcomes))
    if arguments.report is not None:
        write(outcomes, arguments.report)
    return int(any(outcome.columns for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
