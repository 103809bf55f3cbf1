"""What draws: one replica of the server, with the packs that it was asked for last."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from ray import serve

from ...errors import SdkError
from ...pack.layout import file_limit
from ...runtime import keep_memory, quiet
from ...serve import Limits, TorchPainter, create_app
from ...serve.service import Service
from ..engines.ray import share_of_memory
from ..storage import Storage
from ..tasks import Loading
from ..worker import loaded
from .shelf import Shelf

log = logging.getLogger("sdk.serve")


class ShelfPainter(TorchPainter):
    """Draws with packs of shared storage, which are known by their names there."""

    def __init__(self, model: Any, shelf: Shelf) -> None:
        super().__init__(model)
        self._shelf = shelf

    def read_pack(self, path: Path) -> Any:
        if path.is_absolute():  # one that is being sent
            return super().read_pack(path)
        with tempfile.TemporaryDirectory(dir=self._shelf.uploads) as folder:
            name, mark = path.parts
            self._shelf.packs.fetch(name, mark, Path(folder), file_limit)
            return super().read_pack(Path(folder))


class _Held:
    """A pack that this replica has, for as long as Ray Serve counts it among those; then it may go."""

    def __init__(self, service: Service, id: int) -> None:
        self._service, self._id = service, id

    def __del__(self) -> None:
        self._service.packs.forget(self._id)


class Drawer:
    """One replica: the whole server, called with requests instead of connections.

    Args:
        loading: how the base model is loaded.
        place: of packs and pictures, which every replica reaches.
        limits: of requests.
        threads: of torch.
        cpus: cores that the replica has.
        gpus: of a GPU, likewise.
    """

    def __init__(self, loading: Loading, place: str, limits: Limits, threads: int, cpus: float, gpus: float) -> None:
        import torch

        keep_memory()
        quiet()
        torch.set_num_threads(threads)
        self.shelf = Shelf(Storage(place, writes=False))
        self.app = create_app(
            self.shelf, ShelfPainter(loaded(loading, share_of_memory(cpus, gpus)), self.shelf), limits=limits
        ).app  # without its guards, which stand at the front
        self._life = AsyncExitStack()
        self._begun = asyncio.Lock()

    async def _service(self) -> Service:
        """The server's parts, which begin within the replica's own loop."""
        async with self._begun:
            if getattr(self.app.state, "service", None) is None:
                await self._life.enter_async_context(self.app.router.lifespan_context(self.app))
        return self.app.state.service

    async def check_health(self) -> None:
        """Tell Ray Serve, by an error, to replace this replica."""
        if not (await self._service()).batcher.alive:
            raise RuntimeError("nobody draws any more")

    async def held(self, name: str) -> _Held:
        """Have a pack in memory; Ray Serve remembers who has which, and asks those first."""
        service = await self._service()
        await run_in_threadpool(service.read, name)
        kept = await run_in_threadpool(service.library.packs.get, name)
        return _Held(service, kept.id)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Answer a request; yields the messages of ASGI.

        Args:
            scope: the connection's, as far as it can be sent.
            body: whole.
        """
        await self._service()
        name = serve.get_multiplexed_model_id()
        if name:
            with suppress(SdkError):  # the answer will say what is wrong with it
                await self.held(name)
        messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # that nobody waits any more is told by cancelling
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def work() -> None:
            try:
                await self.app({**scope, "app": self.app}, receive, messages.put)
            finally:
                await messages.put(None)

        working, begun = asyncio.create_task(work()), False
        try:
            while (message := await messages.get()) is not None:
                begun = True
                yield message
            await asyncio.wait([working])
            error = working.exception()
            if error is not None and not begun:
                raise error
            if error is not None:  # it was answered with a sentence
                log.error("a mistake of the server", exc_info=error)
        finally:
            working.cancel()
