"""What every request works with: the painter, its line, its packs; and how a request waits."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from ..errors import InputError, OutputError, PackError, SdkError
from ..runtime import Cancelled
from .api.schemas import BASE, Asked, AskedGeneration
from .described import without_path
from .drawing.batching import Batcher, Order
from .drawing.pack_cache import PackCache
from .drawing.painter import Edit, How, Painter, Row
from .limits import Limits
from .metrics import Metrics

log = logging.getLogger("sdk.serve")
_DECODED = 2
_LOOKS = 0.25  # seconds between two looks at whether anybody waits


class TooLong(Exception):
    """A request took longer than it may.

    Args:
        seconds: that it may take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it took longer than {seconds:g} seconds; ask for less")


def sentence(error: BaseException) -> str:
    """Return what a client is told of an error; of what is this machine's own the log alone has more."""
    if isinstance(error, OutputError):
        log.error("%s", error)
        return "the server cannot write; tell whoever runs it"
    if isinstance(error, SdkError | TooLong):
        return str(error)
    if isinstance(error, Cancelled):
        return "the server ends; ask again later"
    log.error("a mistake of the server", exc_info=error)
    return "a mistake of the server; tell whoever runs it"


@dataclass
class Service:
    """One server's parts.

    Attributes:
        library: where packs and pictures are; a :class:`sdk.library.Library`, or what keeps the same elsewhere.
        painter: draws.
        limits: of requests.
        metrics: what is counted.
        batcher: the line.
        packs: in memory.
        fitter: a :class:`sdk.serve.fitting.Fitter`, where torch is.
        decoding: pictures that are decoded at once: a small file may be a large picture.
        ready: whether requests are taken.
    """

    library: Any
    painter: Painter
    limits: Limits
    metrics: Metrics
    batcher: Batcher
    packs: PackCache
    fitter: Any = None
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_DECODED))
    ready: bool = True

    def read(self, name: str) -> Any:
        """Return a pack by name, ``None`` for the base model.

        Raises:
            MissingFileError: none of this name.
            PackError: a damaged one, or another model's.
        """
        if name == BASE:
            return None
        kept = self.library.packs.get(name)
        try:
            return self.packs.get(kept)
        except SdkError as error:
            raise PackError(without_path(error, kept.path, f"the pack {name}")) from error

    def end(self) -> None:
        """Refuse what waits and what comes; what is being drawn is finished."""
        self.ready = False
        self.batcher.refuse()

    @property
    def works(self) -> bool:
        """Whether requests are taken, and those who work on them live."""
        return self.ready and self.batcher.alive and (self.fitter is None or self.fitter.alive)

    async def order(
        self, asked: Asked, edit: Edit | None = None, told: Callable[[float], Any] = lambda share: None
    ) -> tuple[Order, list[str]]:
        """Check a request and put it in the line; return it and notes on its prompt.

        Raises:
            SdkError: what cannot be drawn.
            Busy: the line is full.
        """
        if asked.n > self.limits.images:
            raise InputError(f"n may be at most {self.limits.images}, got {asked.n}")
        if asked.steps is not None and asked.steps > self.limits.steps:
            raise InputError(f"steps may be at most {self.limits.steps}, got {asked.steps}")
        width, height = self._size(asked)
        pack = await run_in_threadpool(self.read, asked.model)
        notes = await run_in_threadpool(self.painter.check, asked.prompt, asked.negative_prompt, pack)
        how = How(width, height, asked.steps, asked.speed, asked.scheduler, asked.guidance_scale, edit)
        first = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        rows = [Row(asked.prompt, asked.negative_prompt, pack, first + i) for i in range(asked.n)]
        return self.batcher.submit(Order(rows, how, told)), notes

    def _size(self, asked: Asked) -> tuple[int | None, int | None]:
        size = asked.size if isinstance(asked, AskedGeneration) else "auto"
        if size == "auto":
            return None, None
        width, height = (int(side) for side in size.split("x"))
        most = self.limits.side or 2 * self.painter.resolution
        if max(width, height) > most:
            raise InputError(f"size may be at most {most}x{most}, got {size}")
        return width, height

    async def wait(self, order: Order, request: Request) -> list[Image.Image]:
        """Wait for an order's pictures, as long as the client does.

        Raises:
            SdkError: why there are none.
            TooLong: the time is up.
            Cancelled: the client has gone, or the server ends.
        """
        begin = time.monotonic()
        waiting = asyncio.wrap_future(order.done)
        try:
            while True:
                finished, _ = await asyncio.wait([waiting], timeout=_LOOKS)
                if finished:
                    return waiting.result()
                if await request.is_disconnected():
                    raise Cancelled("the client has gone")
                if time.monotonic() - begin > self.limits.seconds:
                    raise TooLong(self.limits.seconds)
        finally:
            order.cancel.set()  # of a finished order it means nothing
            waiting.cancel()
