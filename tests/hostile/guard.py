"""What a case may not do, seen from inside the process: write elsewhere, start programs, connect, take memory.

Python's audit events tell before a thing happens, so it is also prevented. Libraries that write without Python are
caught by comparing lists of files.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PROGRAMS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "pty.spawn",
}
_CONNECTIONS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"}
# Where among an event's arguments the paths are that change, each with the folder (a descriptor) it may be relative to.
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
GIGABYTE = 1 << 30


@dataclass
class Seen:
    """What a case did that it may not do, by column."""

    outside: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def columns(self) -> dict[str, str]:
        """The first finding of each column that has one."""
        return {name: found[0][:300] for name, found in vars(self).items() if found}


class Guard:
    """An audit hook, idle until :meth:`watching`. A process can have one only, because hooks stay for good."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._allowed: tuple[str, ...] = ()
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, allowed: tuple[Path, ...], unchanged: tuple[Path, ...]) -> Iterator[Seen]:
        """Watch a block.

        Args:
            allowed: folders that may be written to.
            unchanged: folders in which every file must stay as it is.
        """
        seen = Seen()
        before = {folder: listing(folder) for folder in unchanged}
        start = resident()
        highest = _peak()
        self._allowed = tuple(os.path.realpath(folder) for folder in allowed)
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None
            peak = _peak()
            if peak > highest and peak - start > GIGABYTE:
                seen.memory.append(f"{(peak - start) / GIGABYTE:.1f} GB more than before")
            for folder, files in before.items():
                after = listing(folder)
                for path in files.keys() | after.keys():
                    if files.get(path) != after.get(path):
                        seen.outside.append(f"changed: {path}")

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        seen = self._seen
        if seen is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._changing(seen, event, path)
        elif event in _CHANGES:
            for where, folder in _CHANGES[event]:
                path = arguments[where]
                if folder is not None and len(arguments) > folder and arguments[folder] >= 0:
                    path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[folder]}"), os.fsdecode(path))
                self._changing(seen, event, path, follow=event == "os.truncate")
        elif event in _PROGRAMS:
            seen.programs.append(f"{event} {arguments[:2]!r}")
            raise PermissionError(f"{event} is not for a test")
        elif event in _CONNECTIONS:
            if event == "socket.bind" and _local(arguments):
                return
            where = arguments if event.startswith("socket.get") else arguments[1:]  # after the socket itself
            seen.connections.append(f"{event} {where!r}")
            raise PermissionError(f"{event} is not for a test")

    def _changing(self, seen: Seen, event: str, path: Any, follow: bool = True) -> None:
        if isinstance(path, int) or path is None:
            return  # opened before
        text = os.fsdecode(path)
        # A link itself may be removed or renamed wherever it points to.
        folder, name = os.path.split(os.path.abspath(text))
        whole = os.path.realpath(text) if follow else os.path.join(os.path.realpath(folder), name)
        if event == "os.mkdir" and (os.path.isdir(whole) or not os.path.isdir(os.path.dirname(whole))):
            return  # asked for in case it is not there, or in vain
        if whole in ("/dev/null", "/dev/full") or any(
            whole == root or whole.startswith(root + os.sep) for root in self._allowed
        ):
            return
        if any(whole.startswith(os.path.join(os.path.dirname(root), ".personalizer-")) for root in self._allowed):
            return  # where a folder that is an output itself is written before it is put in place
        seen.outside.append(f"{event} {whole}")
        raise PermissionError(f"{event} {whole} is not for a test")


def listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Kind, size and time of everything below a folder, by path; links are not followed."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            whole = os.path.join(path, name)
            about = os.lstat(whole)
            # A folder's own time moves when something in it does, which is listed itself.
            plain = not os.path.isdir(whole)
            found[whole] = (about.st_mode, *((about.st_size, about.st_mtime_ns) if plain else ()))
    return found


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The most bytes that were in memory; what the system counts as used (ru_maxrss) has the parent's in it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def limit_memory(extra: int) -> None:
    """Let this process map so many bytes more than now: a machine survives what a case asks for."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + extra, resource.RLIM_INFINITY))


def _local(arguments: tuple[Any, ...]) -> bool:
    """Whether an address is of this machine alone (a file)."""
    return len(arguments) > 1 and isinstance(arguments[1], (str, bytes))
