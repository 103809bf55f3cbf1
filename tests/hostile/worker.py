"""A process that runs one case after another, as it is told through a pipe."""

from __future__ import annotations

import io
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .case import ANY, NOTE, REFUSE, Case, Maker, Place, Silent, random_of
from .guard import GIGABYTE, Guard, limit_memory

LONGEST_MESSAGE = 600
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_PRODUCT = f"{os.sep}sdk{os.sep}"
_SHORTAGE = ("can't allocate memory", "not enough memory", "bad allocation", "std::bad_alloc", "Unable to allocate")


def main(pipe: Connection, workspace: str, number: int, build: bool, prepared: bool) -> None:
    """Serve: a case's name comes in, what it did goes out; ``None`` ends it. First why it cannot, or an empty text.

    Args:
        pipe: to the campaign.
        workspace: folder of everything.
        number: of this worker.
        build: make the valid inputs first.
        prepared: import and run the product before anybody watches.
    """
    base = Path(workspace)
    scratch = base / f"worker{number}"
    scratch.mkdir()
    _separate(base, scratch)
    try:
        from .assets import Assets
        from .kinds import maker_of

        assets = Assets(base / "assets")
        if build:
            assets.build()
        if prepared:
            assets.warm_up(scratch)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise
    guard = Guard()
    limit_memory(6 * GIGABYTE)  # more than any length of 32 bits, which is asked for and not touched
    pipe.send("")
    count = 0
    while (asked := pipe.recv()) is not None:
        kind, seed, index = asked
        count += 1
        place = Place(scratch / str(count), assets).make()
        try:
            pipe.send(run_one(guard, maker_of(kind), random_of(kind, seed, index), place, pipe.send))
        finally:
            _remove(place.root)


def run_one(
    guard: Guard, maker: Maker, rng: random.Random, place: Place, tell: Callable[[str], Any] = lambda what: None
) -> dict[str, Any]:
    """Make a case and run it; returns its columns. ``tell`` hears what it is before it runs, lest it never ends."""
    case = None
    outcome: dict[str, Any] = {"what": "", "columns": {}, "message": "", "place": ""}
    try:
        case = maker(rng, place)
    except Exception as error:  # a mistake of these tests, to be seen as one
        outcome["columns"] = {"foreign": f"while making the input: {_told(error)}"}
        outcome["place"] = _where(error)
        return outcome
    outcome["what"] = case.what
    tell(case.what)
    with _surroundings(place), _listening() as notes:
        allowed = (place.out, place.cache, place.temporary, *case.allowed)
        kept = tuple(f for f in (place.inputs, place.home, place.cwd, place.assets.folder) if f not in case.allowed)
        with guard.watching(allowed, kept) as seen:
            outcome |= _judged(case, notes)
        left = next(iter(sorted(os.listdir(place.temporary))), None)
        if left is not None:
            seen.outside.append(f"left in the temporary folder: {left}")
    if outcome["columns"].get("foreign", "").startswith("out of memory"):
        seen.memory.append(outcome["columns"].pop("foreign"))
    outcome["columns"] |= seen.columns()
    return outcome


def _judged(case: Case, notes: list[str]) -> dict[str, Any]:
    """Run a case; what came of it."""
    from sdk.errors import SdkError

    try:
        notes += case.run() or []
    except SdkError as error:
        problem = unfit(str(error))
        return {"columns": {"foreign": f"a message {problem}"} if problem else {}, "message": str(error)}
    except Silent as error:
        return {"columns": {"silent": str(error)}, "place": str(error)}
    except MemoryError as error:
        return {"columns": {"foreign": f"out of memory: {_told(error)}"}, "place": _where(error)}
    except BaseException as error:
        short = "out of memory: " if any(words in str(error) for words in _SHORTAGE) else ""
        return {"columns": {"foreign": short + _told(error)}, "place": _where(error)}
    if case.expect == REFUSE:
        return {"columns": {"silent": "went through"}, "place": "went through"}
    if case.expect == NOTE and not any(notes):
        return {"columns": {"silent": "went through without a note"}, "place": "went through without a note"}
    assert case.expect in (ANY, NOTE)
    return {"message": "; ".join(str(note) for note in notes)[:200]}


def unfit(message: str) -> str | None:
    """Why a message cannot be shown to a person, or ``None``."""
    if not message.strip():
        return "that is empty"
    if len(message) > LONGEST_MESSAGE:
        return f"of {len(message)} characters"
    bad = next((c for c in message if unicodedata.category(c) in _HIDDEN), None)
    return None if bad is None else f"with the character {bad!r}: {message[:80]!r}"


def _told(error: BaseException) -> str:
    text = str(error) if not isinstance(error, RecursionError) else "recursion"
    return f"{type(error).__name__}: {text[:200]!r}"


def _where(error: BaseException) -> str:
    """The last line of the product that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if _PRODUCT in f.filename and "site-packages" not in f.filename]
    frame = (ours or list(frames))[-1]
    name = frame.filename[frame.filename.rfind(_PRODUCT) + 1 :] if ours else Path(frame.filename).name
    return f"{name}:{frame.lineno} {type(error).__name__}"


def _separate(base: Path, scratch: Path) -> None:
    """Set this process up: everything it might write by itself goes into its own folder."""
    log = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):  # libraries in C write there
        os.dup2(log, stream)
    programs = base / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("gs", "gswin64c", "git", "uname"):  # libraries look before they start a program
        script = programs / name
        script.write_text("#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
    os.environ |= {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hub"),
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
    }
    os.environ.pop("HF_HUB_OFFLINE", None)  # asking the network must be seen
    os.environ.pop("TRANSFORMERS_OFFLINE", None)
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")


@contextmanager
def _surroundings(place: Place) -> Iterator[None]:
    """Home, working directory, temporary folder and cache in the case's own folder."""
    names = {
        "HOME": place.home,
        "TMPDIR": place.temporary,
        "PERSONALIZER_CACHE": place.cache,
        "XDG_CACHE_HOME": place.home / ".cache",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {name: str(folder) for name, folder in names.items()}
    folder = os.getcwd()
    os.chdir(place.cwd)
    tempfile.tempdir = None
    try:
        yield
    finally:
        os.chdir(folder)
        tempfile.tempdir = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Listener(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] == "sdk":
            self.notes.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what is said: the log, warnings, standard error."""
    notes: list[str] = []
    handler = _Listener(notes)
    root = logging.getLogger()
    root.addHandler(handler)
    shown = warnings.showwarning
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, category, file, *_: (
                notes.append(str(message)) if _PRODUCT in str(file) else None
            )
            yield notes
    finally:
        warnings.showwarning = shown
        root.removeHandler(handler)


def _remove(folder: Path) -> None:
    """Remove a case's folder, whatever modes it has."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(folder, ignore_errors=True)
