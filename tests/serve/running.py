"""A server in this process, on a port of its own, and what is asked of its answers."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from sdk.serve import Limits

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"
STEPS = {"steps": 2, "seed": 5}
LIMITS = Limits(body=1 << 20, line=16, steps=50, images=4)


@contextmanager
def running(app: Any, host: str = "127.0.0.1", **options: Any) -> Iterator[httpx.Client]:
    """Serve an application; yield a client of it."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, **options) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)


class Held:
    """Lets a painter begin, and draw when it is let.

    Attributes:
        begun: released at each batch.
        free: set to let them all draw.
    """

    def __init__(self, painter: Any, monkeypatch: Any) -> None:
        self.begun, self.free = threading.Semaphore(0), threading.Event()
        draw = painter.draw

        def slow(*given: Any) -> Any:
            self.begun.release()
            assert self.free.wait(60)
            return draw(*given)

        monkeypatch.setattr(painter, "draw", slow)


def zipped(folder, prefix=""):
    """A folder's files as a zip file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return packed.getvalue()


def opened(text):
    """A picture out of base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def pixels(image):
    """As whole numbers."""
    return np.asarray(image.convert("RGB"), int)


def refusal(answer, status, part):
    """An answer is a refusal in one sentence that tells nothing of this machine."""
    assert answer.status_code == status, answer.text
    said = answer.json()["error"]["message"]
    assert part in said
    assert "Traceback" not in said
    assert "/tmp" not in said


@contextmanager
def program(command: str, library: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A command that serves a library, in a process of its own; yields its address and the process."""
    arguments = [sys.executable, "-m", "sdk.commands.main", command, *options, "--port", "0"]
    said = library.with_suffix(".log")  # no pipe, which a server would fill
    with said.open("w") as log, subprocess.Popen(arguments, stderr=log) as process:
        try:
            until = time.monotonic() + 180
            while not (found := re.search(r" (http://\S+); Ctrl-C ends it", said.read_text())):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield found[1], process
        finally:
            process.kill()
