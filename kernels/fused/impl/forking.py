"""What a process forked from one that has computed can still do.

Only the thread that called ``fork`` lives on in the child. The others of torch's pool are gone, and whoever hands them
work waits for ever: torch's own operations, the compiled library on torch's threads, ``multiprocessing`` with its start
method ``fork``. So a child made by ``os.fork`` computes on its one thread, as the workers of torch's data loader do.
"""

from __future__ import annotations

import os

import torch


def _stay_on_this_thread() -> None:
    torch.set_num_threads(1)


def watch() -> None:
    """Have every child of ``os.fork`` start with one torch thread. Once in a process."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
        os.register_at_fork(after_in_child=_stay_on_this_thread)
