"""pytest in forked children of a process that has already imported everything but the product and its tests."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest


class Chosen:
    """A plugin of pytest that keeps only these tests, in this order, and notes the first that fails.

    Args:
        tests: their ids.
        known: the ids of all tests without the mutant; a case that only the mutant makes is kept too.
    """

    def __init__(self, tests: Sequence[str], known: Collection[str]):
        self.places = {test: place for place, test in enumerate(tests)}
        self.functions = {test.split("[")[0] for test in tests}
        self.known = known
        self.failed = ""

    def _keep(self, test: str) -> bool:
        return test in self.places or (test not in self.known and test.split("[")[0] in self.functions)

    def pytest_collection_modifyitems(self, config, items) -> None:
        config.hook.pytest_deselected(items=[item for item in items if not self._keep(item.nodeid)])
        last = len(self.places)
        kept = [item for item in items if self._keep(item.nodeid)]
        items[:] = sorted(kept, key=lambda item: self.places.get(item.nodeid, last))

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (import)"


def import_all(modules: Sequence[str]) -> None:
    """Import third-party modules ahead of the children; what cannot be imported alone they import themselves."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRITON_INTERPRET", "1")  # as tests/conftest.py sets them
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch").set_num_threads(1)


def third_party(own: Sequence[str]) -> list[str]:
    """Return what this process has imported, in that order, without these packages and what has no name of its own."""
    left_out = {*own, "tests", "conftest", "benchmarks", "__main__", "__mp_main__"}
    named = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None) is not None]
    return [name for name in named if name.split(".")[0] not in left_out and not name.startswith("test_")]


def in_child(folder: Path, log: Path, seconds: float, work: Callable[[], object]) -> int | None:
    """Do some work in a child that runs in ``folder``; return its exit code, ``None`` if it ran out of time.

    A child that a signal ended gives the signal's number, negative.
    """
    sys.stdout.flush()
    home = Path.cwd()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(folder)
            sys.path[:] = [str(folder), *(p for p in sys.path if p and Path(p).resolve() != home)]
            os.environ["PYTHONPATH"] = str(folder)
            code = int(work())  # type: ignore[call-overload]
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    late = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done or late:
            _end_group(child)
            break
        time.sleep(0.02)
        late = time.monotonic() > end  # it is asked once more then: this process may have been held up
    if done:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(child, 0)
    return None


def _end_group(leader: int) -> None:
    """End a child's processes, those that it started too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def run_pytest(files: Sequence[str], plugin: object, *options: str) -> int:
    """Run these files' tests in this process."""
    return int(pytest.main([*files, "-q", "-p", "no:cacheprovider", *options], plugins=[plugin]))
