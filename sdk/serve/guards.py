"""Who may ask, and how much: looked at before anything else, on every path.

Without tokens the server is this machine's alone: it listens on loopback addresses, and refuses what comes from
elsewhere, what names another host (as pages do that a name was bent to this machine for) and what pages of other sites
send.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .limits import Limits
from .metrics import Metrics

log = logging.getLogger("sdk.serve")
_OPEN = ("/healthz", "/readyz")
_NAMES = ("localhost",)


class TooLarge(Exception):
    """A body is larger than it may be."""


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _NAMES


def _host_of(value: str) -> str:
    try:
        return "" if "@" in value else urlsplit(value if "//" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""


class Guards:
    """An ASGI application before another.

    Args:
        app: the other.
        tokens: of whom may ask; none: this machine.
        limits: of bodies.
        metrics: where requests are counted.
    """

    def __init__(self, app: Any, tokens: Sequence[str], limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._tokens = [token.encode() for token in tokens]

    def end(self) -> None:
        """Let the server refuse what waits and what comes, before it is ended."""
        if service := getattr(self.app.state, "service", None):
            service.end()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        begin, status, bound = time.monotonic(), 500, _Bound(receive, self.limits.body)

        async def noting(message: Any) -> None:
            nonlocal status
            if bound.passed:  # whoever reads bodies may have made another error of it
                if message["type"] == "http.response.start":
                    status = 413
                    await _refuse(send, status, f"a request may hold {self.limits.body} bytes")
                return
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            problem = self._problem(scope, headers)
            if problem is not None:
                await _refuse(noting, *problem)
                return
            await self.app(scope, bound, noting)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "elsewhere")
            taken = time.monotonic() - begin
            self.metrics.request(path, status, taken)
            log.info("request", extra={"path": path, "status": status, "seconds": round(taken, 3)})

    def _problem(self, scope: Any, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Status and sentence of a refusal, or ``None``."""
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            return 400, "the length of the body is no number"
        if int(length) > self.limits.body:
            return 413, f"a request may hold {self.limits.body} bytes, this one has {length}"
        if scope["path"] in _OPEN:
            return None
        if self._tokens:
            kind, _, token = headers.get(b"authorization", "").partition(" ")
            given = token.strip().encode("latin-1")
            # All are compared, in the same time whatever is given.
            known = [hmac.compare_digest(given, own) for own in self._tokens]
            if kind.lower() != "bearer" or not any(known):
                return 401, "send a token of this server as 'Authorization: Bearer TOKEN'"
            return None
        client = scope.get("client")
        if client is None or not is_loopback(client[0]):
            return 403, "this server has no tokens and serves its own machine alone; start it with --token-file"
        if not is_loopback(_host_of(headers.get(b"host", ""))):
            return 403, "ask this server as localhost or 127.0.0.1"
        origin = headers.get(b"origin")
        if origin is not None and not is_loopback(_host_of(origin)):
            return 403, "pages of other sites may not ask this server"
        return None


class _Bound:
    """What comes in, until it is more than may be."""

    def __init__(self, receive: Any, most: int) -> None:
        self.receive, self.most, self.passed = receive, most, False
        self._seen = 0

    async def __call__(self) -> Any:
        message = await self.receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self.most:
                self.passed = True
                raise TooLarge
        return message


async def _refuse(send: Any, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "refused", "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
