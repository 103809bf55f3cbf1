"""Which test runs which line, from one run of the whole suite."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from .sample import Mutant
from .warm import in_child, run_pytest, third_party

_OPTIONS = ("-m", "not slow and not gpu")


class _Contexts:
    """A plugin of pytest that names what is running to coverage: a test, or a fixture that several tests share."""

    def __init__(self, measured: coverage.Coverage):
        self.measured = measured
        self.now = [""]
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests_of: dict[str, list[str]] = defaultdict(list)

    def _switch(self) -> None:
        self.measured.switch_context(self.now[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        begin = time.monotonic()
        self.now = [item.nodeid]
        self._switch()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - begin
        self.now = [""]
        self._switch()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        self.now.append(f"fixture {fixturedef.baseid} {fixturedef.argname}")
        self._switch()
        try:
            return (yield)
        finally:
            self.now.pop()
            self._switch()

    def pytest_collection_finish(self, session) -> None:
        for item in session.items:
            for name, found in item._fixtureinfo.name2fixturedefs.items():
                self.tests_of[f"fixture {found[-1].baseid} {name}"].append(item.nodeid)


@dataclass(frozen=True)
class Covered:
    """What one run of the suite showed.

    Attributes:
        lines: per file, per line, the tests that run it.
        seconds: how long each test took.
        modules: what the suite imports that is not the product's.
    """

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]
    modules: list[str]

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that could tell, file by file, quick ones first; none: no test runs the mutant's lines."""
        lines = self.lines.get(mutant.file, {})
        first, last = mutant.lines or (0, 0)
        found = {test for line in range(first, last + 1) for test in lines.get(line, [])}
        if mutant.lines is None:
            found = set(self.seconds)
        files: dict[str, float] = defaultdict(float)
        for test in found:
            files[test.split("::")[0]] += self.seconds[test]
        return sorted(found, key=lambda t: (files[t.split("::")[0]], t.split("::")[0], self.seconds[t]))


def cover(tree: Path, tests: Sequence[str], files: Sequence[str], own: Sequence[str], kept: Path) -> Covered:
    """Run the suite in ``tree`` once, or read what ``kept`` says of an earlier run.

    Raises:
        SystemExit: a test fails without any mutant.
    """
    if not kept.is_file():
        log = kept.with_suffix(".log")
        code = in_child(tree, log, 3600, lambda: _measure(tests, files, own, kept))
        if code != 0:
            kept.unlink(missing_ok=True)
            raise SystemExit(f"the suite does not pass as it is, see {log}")
    read = json.loads(kept.read_text(encoding="utf-8"))
    lines = {file: {int(line): found for line, found in by.items()} for file, by in read["lines"].items()}
    return Covered(lines, read["seconds"], read["modules"])


def _measure(tests: Sequence[str], files: Sequence[str], own: Sequence[str], kept: Path) -> int:
    measured = coverage.Coverage(data_file=None, include=[str(Path.cwd() / file) for file in files], config_file=False)
    plugin = _Contexts(measured)
    measured.start()
    code = run_pytest(tests, plugin, *_OPTIONS)
    measured.stop()
    for package in own:
        assert Path(sys.modules[package].__file__ or "").is_relative_to(Path.cwd()), f"not the copy's {package}"
    data = measured.get_data()
    lines = {}
    for file in files:
        by_line = data.contexts_by_lineno(str(Path.cwd() / file)).items()
        lines[file] = {
            line: sorted({t for c in contexts for t in plugin.tests_of.get(c, [c]) if t in plugin.seconds})
            for line, contexts in by_line
        }
    kept.write_text(json.dumps({"lines": lines, "seconds": plugin.seconds, "modules": third_party(own)}))
    return code
