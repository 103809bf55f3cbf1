"""Run a sample of mutants against the suite and report which survive.

The rooms, the tests and the product's packages are named in pyproject.toml, ``[tool.mutants]``. A mutant is judged by
the tests that run its line, until one fails; one that takes far longer than these tests do counts as killed. All this
happens in a copy of the checkout under out/mutants. Repeat the command after an interruption: what the report holds is
not run again.

Usage: python -m benchmarks.mutants --report out/mutants.csv [--count 320] [--seed 0] [--room methods] [--again FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from . import report
from .covered import Covered, cover
from .sample import Mutant, by_hand, draw, mutants_of
from .warm import Chosen, import_all, in_child, run_pytest

OUT = Path("out/mutants").absolute()


def files_of(patterns: list[str], tracked: list[str]) -> list[str]:
    """Return the Python files that a room names by folders, files or patterns."""
    wanted = [f for f in tracked if f.endswith(".py")]
    return [f for f in wanted if any(fnmatch(f, p) or f.startswith(p.rstrip("/") + "/") for p in patterns)]


def copy_checkout(files: list[str], tree: Path) -> None:
    """Copy these files to ``tree``, which holds nothing else afterwards."""
    shutil.rmtree(tree, ignore_errors=True)
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, tree / file)


def judge(mutant: Mutant, covered: Covered, tree: Path) -> tuple[str, str, int, float]:
    """Return verdict, by which test, the number of tests that could tell, and seconds."""
    tests = covered.tests(mutant)
    if not tests:
        return "survived", "no test runs it", 0, 0.0
    file, said = tree / mutant.file, OUT / "failed.txt"
    original = file.read_text(encoding="utf-8")
    said.unlink(missing_ok=True)

    def work() -> int:
        sys.dont_write_bytecode = True
        plugin = Chosen(tests, covered.seconds)
        code = run_pytest(list(dict.fromkeys(t.split("::")[0] for t in tests)), plugin, "-x", "--tb=short")
        said.write_text(plugin.failed)
        return code

    begin = time.monotonic()
    try:
        _write(file, mutant.code)
        code = in_child(tree, OUT / "last.log", 90 + 6 * sum(covered.seconds[t] for t in tests), work)
    finally:
        _write(file, original)
    seconds = time.monotonic() - begin
    by = said.read_text() if said.is_file() else ""
    verdict = {None: "timeout", 0: "survived", 5: "survived"}.get(code, "killed")
    if code in (3, 4, 99):  # pytest itself stumbled
        verdict, by = "error", f"exit {code}"
    return verdict, by or ("" if verdict == "survived" else f"exit {code}"), len(tests), seconds


def _write(file: Path, code: str) -> None:
    """Write a module so that no compiled form of another text is taken for it."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    file.write_text(code, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="CSV file; a summary is written beside it (.md)")
    parser.add_argument("--count", type=int, default=320, help="mutants to draw from all rooms (320)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", help="run only this room's part of the sample; may be repeated")
    parser.add_argument("--again", type=Path, help="instead of a sample: the mutants of this earlier report")
    parser.add_argument("--survivors", action="store_true", help="with --again: only those that survived")
    parser.add_argument("--summary", action="store_true", help="only print what the report adds up to")
    arguments = parser.parse_args()
    if arguments.summary:
        print(report.summary(report.read(arguments.report)))
        return

    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutants"]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    tracked = sorted(file for file in set(listing.splitlines()) if Path(file).is_file())
    rooms = {name: files_of(patterns, tracked) for name, patterns in settings["rooms"].items()}
    tree = OUT / "tree"
    copy_checkout(tracked, tree)
    found = {file: mutants_of(tree, room, file) for room, files in rooms.items() for file in files}
    print(f"{sum(map(len, found.values()))} mutants in {len(found)} files", flush=True)
    if arguments.again:
        rows = [r for r in report.read(arguments.again) if r["verdict"] == "survived" or not arguments.survivors]
        wanted = {(r["where"], r["operator"], r["change"]) for r in rows}
        chosen = list({m.same: m for mutants in found.values() for m in mutants if m.same in wanted}.values())
        print(f"{len(wanted)} mutants in {arguments.again}, {len(chosen)} of them are still there", flush=True)
    else:
        chosen = draw({file: mutants for file, mutants in found.items() if mutants}, arguments.count, arguments.seed)
    chosen = [*by_hand(tree, rooms, Path(__file__).with_name("by_hand.toml")), *chosen]
    if arguments.room:
        chosen = [m for m in chosen if m.room in arguments.room]

    judged = [f for f in tracked if f.split("/")[0] in {*settings["packages"], "tests"}]
    state = hashlib.sha256(b"".join((tree / f).read_bytes() for f in judged if f.endswith(".py")))
    state.update(json.dumps(settings).encode())
    kept = OUT / f"covered-{state.hexdigest()[:10]}.json"
    covered = cover(tree, settings["tests"], list(found), settings["packages"], kept)
    import_all(covered.modules)
    done = {row["mutant"] for row in report.read(arguments.report)}
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    for index, mutant in enumerate(chosen, 1):
        if mutant.name in done:
            continue
        verdict, by, tests, seconds = judge(mutant, covered, tree)
        report.add(arguments.report, mutant, verdict, by, tests, seconds)
        print(
            f"{index}/{len(chosen)} {verdict} {seconds:.0f} s {mutant.file}:{mutant.line} {mutant.change}", flush=True
        )
    arguments.report.with_suffix(".md").write_text(report.summary(report.read(arguments.report)), encoding="utf-8")


if __name__ == "__main__":
    main()
