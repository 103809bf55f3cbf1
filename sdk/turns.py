"""Who waits for whom: calls run side by side, an export runs alone.

torch's exporter has switches for the whole process (``torch.compiler.is_exporting``), by which a fit in another thread
computes otherwise, or fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import InputError

_changed = threading.Condition()
_beside: dict[int, int] = {}  # threads that run calls, and how deep in each other
_alone: list[int] = []  # the thread that exports, once for each level
_waiting = 0  # exports


@contextmanager
def beside_others() -> Iterator[None]:
    """Run a call beside other calls; an export that runs or waits goes first. May be nested."""
    me = threading.get_ident()
    with _changed:
        if me not in _alone and me not in _beside:
            _changed.wait_for(lambda: not _alone and not _waiting)
        _beside[me] = _beside.get(me, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _beside[me] -= 1
            if not _beside[me]:
                del _beside[me]
            _changed.notify_all()


@contextmanager
def all_alone() -> Iterator[None]:
    """Run when no other call runs any more, and let none begin.

    Raises:
        InputError: asked for in the middle of a call, which would wait for itself.
    """
    global _waiting
    me = threading.get_ident()
    with _changed:
        if me in _beside:
            raise InputError("an export runs alone; call it after the drawing or the fit, not in its callback")
        _waiting += 1
        try:
            _changed.wait_for(lambda: not _beside and all(thread == me for thread in _alone))
        finally:
            _waiting -= 1
            _changed.notify_all()  # also where waiting was broken off
        _alone.append(me)
    try:
        yield
    finally:
        with _changed:
            _alone.remove(me)
            _changed.notify_all()


def _begin_anew() -> None:
    """In a forked child the calls of its parent's threads never end."""
    global _changed, _waiting
    _changed, _waiting = threading.Condition(), 0
    _beside.clear()
    _alone.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
