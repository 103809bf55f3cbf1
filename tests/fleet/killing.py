"""Kill -9 of workers, in a thread, while a test waits for what they do."""

from __future__ import annotations

import threading
import time

import psutil


def kill_child(name):
    """Kill the first process below this one whose command line holds a name; return its number, or None."""
    for each in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(each.cmdline()):
                each.kill()
                return each.pid
        except psutil.NoSuchProcess:  # it ended while it was looked at; a zombie is one of these
            continue
    return None


def killed_once(folder, kill):
    """Call `kill()` until it kills, as soon as a checkpoint is below a folder; return a list that gets whom."""
    killed = []

    def wait():
        while not killed:
            if list(folder.glob("packs/*.partial/checkpoint.safetensors")) and (found := kill()):
                killed.append(found)
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()
    return killed
