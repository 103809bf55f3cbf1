"""Batches across packs: whoever waits shares the next pass of the UNet, each row with its own pack.

One batch after another is drawn. While it does, requests come together; when it is free, the oldest
one says what is drawn, and rows of others that go with it (:class:`sdk.serve.drawing.How` is equal) join until it is
full. A request of many pictures goes to the end of the line after each batch, so that nobody waits for all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ...errors import SdkError
from ...runtime import Cancelled, Event
from .painter import How, Painter, Row

log = logging.getLogger("sdk.serve")


class Busy(Exception):
    """The line is full.

    Attributes:
        seconds: after which it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("too many requests wait; try again later")
        self.seconds = seconds


def _running() -> Future[list[Image.Image]]:
    """A future that only the line ends: who stops waiting for it does not cancel it."""
    future: Future[list[Image.Image]] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False)
class Order:
    """One request's pictures.

    Attributes:
        rows: the pictures.
        how: they are drawn.
        told: called, from another thread, with the share that is done.
        done: the pictures, or why there are none.
        cancel: once set, nobody waits for them any more.
        arrived: when it came, :func:`time.monotonic`.
    """

    rows: Sequence[Row]
    how: How
    told: Callable[[float], Any] = lambda share: None
    done: Future[list[Image.Image]] = field(default_factory=_running)
    cancel: threading.Event = field(default_factory=threading.Event)
    arrived: float = field(default_factory=time.monotonic)
    given: int = 0  # rows that went into a batch
    images: dict[int, Image.Image] = field(default_factory=dict)


class Batcher:
    """Draws orders in batches; a context manager, whose end waits for the batch at hand and refuses the others.

    Args:
        painter: draws.
        most: rows of a batch.
        line: rows that may wait.
        across: whether packs may meet in a batch; ``False`` is for comparison.
        watch: told of each batch: its rows, and the seconds it took.
    """

    def __init__(
        self,
        painter: Painter,
        most: int,
        line: int,
        across: bool = True,
        watch: Callable[[int, float], Any] = lambda rows, seconds: None,
    ) -> None:
        self.painter, self.most, self.line, self.across, self.watch = painter, most, line, across, watch
        self._waiting: list[Order] = []
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 1.0  # seconds a row, lately
        self._drawing = ThreadPoolExecutor(1, "drawing")
        self._thread = threading.Thread(target=self._work, name="batching", daemon=True)
        self._thread.start()

    @property
    def rows_waiting(self) -> int:
        """Rows that are in no batch yet."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(order.rows) - order.given for order in self._waiting)

    def submit(self, order: Order) -> Order:
        """Put an order at the end of the line; its ``done`` will hold the pictures.

        Raises:
            Busy: the line is full, or the server is about to end.
        """
        with self._changed:
            self._check_room(len(order.rows))
            self._waiting.append(order)
            self._changed.notify_all()
        return order

    def check_room(self, rows: int) -> None:
        """Raise :class:`Busy` if there is no room for so many rows now."""
        with self._changed:
            self._check_room(rows)

    def _check_room(self, rows: int) -> None:
        waiting = self._count()
        if self._closing or (waiting and waiting + rows > self.line):
            raise Busy(max(1.0, waiting * self._pace))

    @property
    def alive(self) -> bool:
        """Whether somebody draws."""
        return self._thread.is_alive()

    def refuse(self) -> None:
        """Refuse what waits and what comes; the batch at hand is drawn to its end."""
        with self._changed:
            self._closing = True
            refused, self._waiting = self._waiting, []
            self._changed.notify_all()
        for order in refused:
            self._failed(order, Cancelled("the server ends"))

    def close(self) -> None:
        """The same, and wait for that end."""
        self.refuse()
        self._thread.join()
        self._drawing.shutdown()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *of: Any) -> None:
        self.close()

    def _work(self) -> None:
        while batch := self._next():
            begin = time.monotonic()
            # What it raises is this batch's alone: the next one is drawn all the same.
            error = self._drawing.submit(self._drawn, batch).exception()
            if error is not None:
                log.error("a mistake of the program: a batch of %d rows failed; report it", len(batch), exc_info=error)
                for order, _ in batch:
                    self._failed(order, error)
                continue
            taken = time.monotonic() - begin
            self._pace = 0.8 * self._pace + 0.2 * taken / len(batch)
            self.watch(len(batch), taken)

    def _next(self) -> list[tuple[Order, int]]:
        """The next batch: orders and places of their rows; empty when it is time to stop."""
        with self._changed:
            while True:
                for order in [each for each in self._waiting if each.cancel.is_set()]:
                    self._waiting.remove(order)
                    if not order.done.done():
                        order.done.set_exception(Cancelled())
                if self._closing:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            first = self._waiting[0]
            batch: list[tuple[Order, int]] = []
            for order in [each for each in self._waiting if self._goes_with(first, each)]:
                free = self.most - len(batch)
                if not free:
                    break
                places = range(order.given, min(order.given + free, len(order.rows)))
                batch += [(order, place) for place in places]
                order.given = places.stop
                self._waiting.remove(order)
                if order.given < len(order.rows):
                    self._waiting.append(order)
            return batch

    def _goes_with(self, first: Order, other: Order) -> bool:
        same = self.across or first.rows[0].pack is other.rows[0].pack
        return same and first.how == other.how

    def _drawn(self, batch: list[tuple[Order, int]]) -> None:
        """Draw a batch and give each order its pictures; of one that cannot be drawn the others hear nothing."""
        orders = list(dict.fromkeys(order for order, _ in batch))
        cancel = threading.Event()

        def progress(event: Event) -> None:
            if all(order.cancel.is_set() for order in orders):
                cancel.set()
            for order in orders:
                here = sum(own is order for own, _ in batch) * event.done / max(event.total, 1)
                order.told((len(order.images) + here) / len(order.rows))

        try:
            rows = [order.rows[place] for order, place in batch]
            images = self.painter.draw(rows, orders[0].how, progress, cancel)
        except Cancelled as stopped:
            for order in orders:
                self._failed(order, stopped)
        except SdkError as error:
            if len(orders) == 1:
                self._failed(orders[0], error)
                return
            for order in orders:
                self._drawn([each for each in batch if each[0] is order])
        else:
            for (order, place), image in zip(batch, images, strict=True):
                order.images[place] = image
            for order in orders:
                if len(order.images) == len(order.rows) and not order.done.done():
                    order.done.set_result([order.images[place] for place in range(len(order.rows))])

    def _failed(self, order: Order, error: BaseException) -> None:
        with self._changed:
            if order in self._waiting:  # for its further rows
                self._waiting.remove(order)
        if not order.done.done():
            order.done.set_exception(error)
