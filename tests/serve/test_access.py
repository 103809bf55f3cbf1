"""Who may ask a server: with tokens, and without."""

from __future__ import annotations

import ipaddress
import socket

import pytest

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx

from sdk.library import Library
from sdk.serve import create_app
from tests.serve.running import refusal, running


def test_tokens(painter, tmp_path):
    tokens = ["a-token-of-one-client", "a-token-of-the-other"]
    with Library(tmp_path) as library, running(create_app(library, painter, tokens=tokens)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer a-token"},
            {"authorization": tokens[0]},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/pictures/x.png", "/nowhere"):
                refused = client.get(path, headers=headers)
                refusal(refused, 401, "Bearer TOKEN")
                assert refused.headers["www-authenticate"] == "Bearer"
        for token in tokens:
            headers = {"authorization": f"bearer {token}", "host": "example.org"}
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_without_tokens_this_machine_alone_is_served(client, painter, tmp_path):
    import asyncio

    for headers in (
        {"host": "example.org"},
        {"origin": "https://example.org"},
        {"origin": "null"},
        {"host": "::::"},
        {"origin": "http://["},
        {"host": "evil.com@localhost"},
    ):
        assert client.get("/v1/models", headers=headers).status_code == 403
    for headers in ({"host": "localhost:8000"}, {"host": "[::1]:80"}, {"origin": "http://localhost:3000"}):
        assert client.get("/v1/models", headers=headers).status_code == 200
    with Library(tmp_path / "other") as library:
        app = create_app(library, painter)
        said = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            said.append(message)

        for client_address in (("192.0.2.1", 5), ("::2", 5), None):
            scope = {"type": "http", "path": "/v1/models", "method": "GET", "client": client_address}
            asyncio.run(app(scope | {"headers": [(b"host", b"localhost")]}, receive, send))
            assert said[0]["status"] == 403
            assert b"no tokens" in said[1]["body"]
            said.clear()


def test_a_request_by_an_address_of_the_network_is_refused(painter, tmp_path):
    """As from elsewhere: this machine, by the address that others know it by."""
    own = address_in_the_network()
    if own is None:
        pytest.skip("this machine has no address but loopback")
    with Library(tmp_path) as library, running(create_app(library, painter), host="0.0.0.0") as client:
        port = client.base_url.port
        assert client.get("/v1/models").status_code == 200
        for host in (own, "localhost"):
            answer = httpx.get(f"http://{own}:{port}/v1/models", headers={"host": host})
            refusal(answer, 403, "no tokens")
        assert httpx.get(f"http://{own}:{port}/healthz").status_code == 200


def address_in_the_network():
    """The address that packets to elsewhere would leave from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))
        except OSError:
            return None
        own = asked.getsockname()[0]
    return None if ipaddress.ip_address(own).is_loopback or own == "0.0.0.0" else own
