"""Who may ask a server: with tokens, and without."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

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
