"""What takes requests: who may ask is looked at, the pack is read off, and a replica that has it is asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ...disk.file_names import check_name
from ...errors import InputError
from ...runtime import quiet
from ...serve import Limits
from ...serve.api.schemas import BASE
from ...serve.guards import Guards, TooLarge
from ...serve.metrics import Metrics

log = logging.getLogger("sdk.serve")
TRIES = 4  # of a request whose replica died before it answered
_READY, _GRACE = 5.0, 5.0  # seconds: for a replica that is ready; beyond the limit, for its own refusal
_DRAWN = ("/v1/images/generations", "/v1/images/edits")
_SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")


class Front:
    """The ingress: any number of replicas, which hold nothing.

    Args:
        drawers: the handle of what draws.
        tokens: of those who may ask; none: this machine alone may.
        limits: of requests.
    """

    def __init__(self, drawers: Any, tokens: Sequence[str], limits: Limits) -> None:
        quiet()
        self.drawers, self.limits, self.metrics = drawers, limits, Metrics()
        self.guards = Guards(self._asked, tokens, limits, self.metrics)

    async def __call__(self, request: Request) -> Response:
        return _Through(self.guards)

    async def _asked(self, scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = _Route(_pattern(scope["path"]))  # what requests are counted by
        if scope["path"] == "/healthz":
            await JSONResponse({"status": "ok"})(scope, receive, send)
            return
        if scope["path"] == "/metrics":  # of this front; what replicas count is Ray's to tell
            await Response(self.metrics.text(), media_type="text/plain; version=0.0.4")(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except TooLarge:
            await JSONResponse({}, 413)(scope, receive, send)  # the guards say it in their words
            return
        except ClientDisconnect:
            return
        pack = await _pack_of(scope, body)
        asked = {name: scope[name] for name in _SENT if name in scope}
        asked |= {"client": scope.get("client"), "server": scope.get("server")}
        await self._answered(asked, body, pack, scope, receive, send)

    async def _answered(self, asked: Any, body: bytes, pack: str, scope: Any, receive: Any, send: Any) -> None:
        """Let a replica answer, or another one if it dies before it begins to."""
        begun = False

        async def refuse(status: int, message: str, kind: str = "refused") -> None:
            headers = {"retry-after": "5"} if status == 429 else None
            said = {"error": {"message": message, "type": kind, "code": None}}
            await JSONResponse(said, status, headers)(scope, receive, send)

        for left in reversed(range(TRIES)):
            try:
                answer = self.drawers.options(stream=True, multiplexed_model_id=pack).answer.remote(asked, body)
                waiting = aiter(answer)
                async with asyncio.timeout(_READY if scope["path"] == "/readyz" else self.limits.seconds + _GRACE):
                    first = await anext(waiting)  # who has begun to answer keeps to the limit itself
                begun = True
                await send(first)
                async for message in waiting:
                    await send(message)
                return
            except TimeoutError:
                if begun:
                    raise
                if scope["path"] == "/readyz":
                    await refuse(503, "nobody draws yet", "server_error")
                else:
                    await refuse(408, f"it took longer than {self.limits.seconds:g} seconds; ask for less")
                return
            except (ray.exceptions.RayActorError, serve.exceptions.ReplicaUnavailableError) as error:
                if begun or not left:
                    raise
                log.warning("a replica died (%s); the request goes to another one", type(error).__name__)
            except serve.exceptions.BackPressureError:
                await refuse(429, "too many requests wait; try again later")
                return
            except ray.exceptions.RayError as error:
                if begun:
                    raise
                log.error("a mistake of a replica", exc_info=error)
                await refuse(500, "a mistake of the server; tell whoever runs it", "server_error")
                return


@dataclass(frozen=True)
class _Route:
    """A path's pattern, where Starlette has it."""

    path: str


def _pattern(path: str) -> str:
    """A path as it is counted: without names, of which there are too many."""
    for known in ("/v1/models", "/v1/pictures"):
        if path.startswith(f"{known}/"):
            return f"{known}/..."
    return path if path in (*_DRAWN, "/healthz", "/readyz", "/metrics", "/v1/models") else "elsewhere"


class _Through(Response):
    """An answer that an ASGI application gives."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


async def _pack_of(scope: Any, body: bytes) -> str:
    """The pack that a request asks for, empty if it asks for none; what is wrong with it the server itself says."""
    if scope["method"] != "POST" or scope["path"] not in _DRAWN:
        return ""
    try:
        if scope["path"] == _DRAWN[0]:
            name = json.loads(body).get("model", BASE)
        else:
            name = (await Request(scope, _whole(body)).form()).get("model", BASE)
        return "" if name == BASE else check_name(name)
    except (ValueError, AttributeError, RecursionError, InputError, KeyError, MultiPartException):
        return ""


def _whole(body: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
