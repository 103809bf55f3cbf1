"""The tables of the study's pages, printed anew from the rows: a page never says what its command does not print.

Above each table a comment of the page holds its command, ``<!-- python -m benchmarks.study.summary FILE.csv ... -->``.

Usage: python -m benchmarks.study.page [docs/study.md README.md]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from pathlib import Path

from benchmarks.study import orderings, rates, short, summary, worth

PAGES = ("docs/study.md", "README.md")
_TABLE = re.compile(r"(<!-- python -m benchmarks\.study\.(\w+) ([^>]*?) -->)\n\n(?:\|[^\n]*\n|\n)*")
_PRINT = {module.__name__.rpartition(".")[2]: module.main for module in (orderings, rates, short, summary, worth)}


def renewed(page: str) -> str:
    """Return a page with what its commands print now."""
    return _TABLE.sub(_with_table, page)


def _with_table(found: re.Match[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        _PRINT[found[2]](shlex.split(found[3]))
    return f"{found[1]}\n\n{said.getvalue().strip()}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=[Path(page) for page in PAGES])
    for page in parser.parse_args().pages:
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        page.write_text(after, encoding="utf-8")
        print(f"{page}: {'the same' if after == before else 'changed'}")


if __name__ == "__main__":
    main()
