"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import MissingFileError, NotFiniteError, OutputError, SdkError
from ..printable import printable
from ..runtime import Cancelled
from ..version import __version__
from .api import fits, images, models
from .api.images import service_of
from .drawing.batching import Batcher, Busy
from .drawing.pack_cache import PackCache
from .drawing.painter import Painter
from .guards import Guards, TooLarge
from .limits import Limits
from .metrics import Metrics
from .service import Service, TooLong, sentence

log = logging.getLogger("sdk.serve")
_TIDIES = 60.0  # seconds between two looks for what is to be forgotten


def create_app(
    library: Any,
    painter: Painter,
    *,
    tokens: Sequence[str] = (),
    limits: Limits | None = None,
    across: bool = True,
    fitter: Any = None,
) -> Any:
    """Return the server, for uvicorn or another ASGI server; it closes nothing that it was given.

    Args:
        library: where packs and pictures are; a :class:`sdk.library.Library`, or what keeps the same elsewhere.
        painter: draws.
        tokens: of those who may ask; none: this machine alone may.
        limits: of requests.
        across: whether packs may meet in a batch; ``False`` is for comparison.
        fitter: a :class:`sdk.serve.Fitter` of the same library, if fits may be asked for.
    """
    limits, metrics = limits or Limits(), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(painter, painter.most_at_once, limits.line, across, metrics.batch)
        packs = PackCache(painter, limits.packs, metrics.pack)
        app.state.service = service = Service(library, painter, limits, metrics, batcher, packs, fitter)
        tidying = asyncio.create_task(_tidy(service))
        try:
            yield
        finally:
            service.end()
            tidying.cancel()
            await run_in_threadpool(batcher.close)

    app = FastAPI(
        title="Personalizer",
        version=__version__,
        description="Pictures with packs, any of them in one batch.",
        lifespan=lifespan,
        docs_url=None,  # pages that load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(images.router)
    app.include_router(models.router)
    app.include_router(fits.router)
    _health(app)
    _errors(app, limits)
    return Guards(app, tokens, limits, metrics)


async def _tidy(service: Service) -> None:
    """Forget pictures whose time is over, and packs that were removed."""
    while True:
        before = time.time() - service.limits.kept
        try:
            await run_in_threadpool(service.library.pictures.forget, before)
            await run_in_threadpool(service.library.packs.forget, before)
        except OSError as error:  # for a while: no reason to stop tidying for good
            log.error("old files could not be removed (%s); free some space, and let the server write there", error)
        await asyncio.sleep(_TIDIES)


def _health(app: FastAPI) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "It is about to end."}})
    async def readyz(request: Request) -> Response:
        """Whether it takes requests."""
        works = service_of(request).works
        return JSONResponse({"status": "ready" if works else "ending"}, 200 if works else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """What is counted, for Prometheus."""
        service = service_of(request)
        service.metrics.waiting.set(service.batcher.rows_waiting)
        service.metrics.held.set(service.packs.bytes)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _errors(app: FastAPI, limits: Limits) -> None:
    """Every error is one sentence in OpenAI's shape."""

    def refused(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"message": message, "type": kind, "code": None}}, status, headers)

    @app.exception_handler(SdkError)
    async def sdk_error(request: Request, error: SdkError) -> Response:
        if isinstance(error, OutputError):  # the disk is full: no fault of who asked
            return refused(503, sentence(error), "server_error")
        status = 404 if isinstance(error, MissingFileError) else 422 if isinstance(error, NotFiniteError) else 400
        return refused(status, sentence(error), "invalid_request_error")

    @app.exception_handler(Exception)
    async def mistake(request: Request, error: Exception) -> Response:
        return refused(500, sentence(error), "server_error")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return refused(400, "the request ended before it was whole", "invalid_request_error")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return refused(400, printable(f"{where}: {first['msg']}"), "invalid_request_error")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return refused(error.status_code, printable(error.detail), "invalid_request_error", headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return refused(429, str(error), "busy", {"retry-after": str(int(error.seconds + 0.999))})

    @app.exception_handler(TooLong)
    async def too_long(request: Request, error: TooLong) -> Response:
        return refused(408, sentence(error), "timeout")

    @app.exception_handler(Cancelled)
    async def cancelled(request: Request, error: Cancelled) -> Response:
        return refused(503, sentence(error), "busy", {"retry-after": "5"})

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> Response:
        return refused(413, f"a request may hold {limits.body} bytes", "invalid_request_error")
