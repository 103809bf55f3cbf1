"""Ctrl-C at a moment that suits: long work ends between two steps, so that what is kept of it is whole."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("sdk")


@contextmanager
def deferred_interrupt(what: str = "this step is finished and kept") -> Iterator[threading.Event]:
    """Let the first Ctrl-C in a block set an event instead of raising :class:`KeyboardInterrupt`; the second raises.

    Args:
        what: to tell then.

    Whoever opens the block looks at the event between two steps. Outside the main thread, and where a program handles
    Ctrl-C in a way of its own, nothing changes.
    """
    interrupted = threading.Event()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def note(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        log.warning("interrupted: %s; press again to stop at once", what)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
