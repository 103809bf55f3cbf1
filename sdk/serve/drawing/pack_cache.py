"""Packs in memory: those that were used last, within a budget; read while others draw."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from ...library import KeptPack


class Reader(Protocol):
    """What reads packs: a painter, or what fetches them for one."""

    def read_pack(self, path: Path) -> Any:
        """Read a pack, or raise :class:`sdk.errors.SdkError`."""
        ...

    def size_of(self, pack: Any) -> int:
        """Return how many bytes it takes in memory."""
        ...


class PackCache:
    """The packs that are ready to draw with. Several threads may ask at once; each pack is read once.

    What is in use stays in memory as long as it is, whatever the budget.

    Args:
        painter: reads them.
        budget: bytes that may be held.
        watch: told ``"hit"``, ``"miss"`` or ``"evicted"``.
    """

    def __init__(self, painter: Reader, budget: int, watch: Callable[[str], Any] = lambda what: None) -> None:
        self.painter, self.budget, self.watch = painter, budget, watch
        self._held: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._reading: dict[int, Future] = {}
        self._gone: set[int] = set()  # removed while they were read
        self._lock = threading.RLock()  # collected garbage may let go of a pack at any time

    @property
    def bytes(self) -> int:
        """That are held."""
        with self._lock:
            return sum(size for _, size in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, kept: KeptPack) -> Any:
        """Return a pack of the library, read if it is not there.

        Raises:
            SdkError: it is damaged, or another model's.
        """
        with self._lock:
            if kept.id in self._held:
                self._held.move_to_end(kept.id)
                self.watch("hit")
                return self._held[kept.id][0]
            mine = kept.id not in self._reading
            future = self._reading.setdefault(kept.id, Future())
        if not mine:
            return future.result()
        self.watch("miss")
        try:
            pack = self.painter.read_pack(kept.path)
            size = self.painter.size_of(pack)
        except BaseException as error:
            with self._lock:
                del self._reading[kept.id]
            future.set_exception(error)
            raise
        with self._lock:
            del self._reading[kept.id]
            if kept.id not in self._gone:
                self._held[kept.id] = pack, size
            self._gone.discard(kept.id)
            while len(self._held) > 1 and sum(size for _, size in self._held.values()) > self.budget:
                self._held.popitem(last=False)
                self.watch("evicted")
        future.set_result(pack)
        return pack

    def forget(self, id: int) -> None:
        """Let go of a pack that was removed."""
        with self._lock:
            self._held.pop(id, None)
            if id in self._reading:
                self._gone.add(id)
