"""The studio as an ASGI application: the page, and before it who may see it."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.resources import files
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ..serve.guards import Guards
from ..serve.limits import Limits
from ..serve.metrics import Metrics
from .page import build_page, look
from .workshop import Workshop

# Whatever a page may hold, a browser loads it from here alone; Gradio's own scripts need eval and inline ones.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
_BODY = 1 << 30  # bytes of a request: whole packs come
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def create_studio(shop: Workshop) -> Any:
    """Return the studio, for uvicorn or another ASGI server; this machine alone may ask it.

    Args:
        shop: what the page works with; it stays the caller's to close.
    """
    scratch = shop.library.uploads / "page"
    scratch.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)  # what is uploaded and shown; it goes at the next start
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok")

    page = build_page(shop, scratch)
    page.has_launched = True  # else Gradio takes paths of this machine for files that were uploaded
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        show_error=False,
        max_file_size=_BODY,
        allowed_paths=[str(shop.library.folder / "pictures"), str(files(__package__).joinpath("example.png"))],
        ssr_mode=False,
        enable_monitoring=False,
        **look(),
    )
    return Guards(_OwnPages(app), (), Limits(body=_BODY), Metrics())


class _OwnPages:
    """An ASGI application for its own pages alone, whose answers have further headers.

    Programs of this machine may have pages, too, at other ports: these may not ask.
    """

    def __init__(self, app: Any) -> None:
        self.app, self.state = app, app.state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is not None and origin != b"http://" + headers.get(b"host", b""):
            await Response("pages of other sites may not ask the studio", 403)(scope, receive, send)
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        with suppress(ClientDisconnect):  # a page was closed while it sent something
            await self.app(scope, receive, sending if scope["type"] == "http" else send)
