"""The client: what it draws is what a call draws, and what is wrong it says as a call does."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from PIL import Image

from sdk.client import Client, ServerError
from sdk.errors import InputError, MissingFileError
from sdk.images.record import record_of
from sdk.library import Library
from sdk.serve import Limits, create_app
from tests.serve.running import Held, running

TOKEN = "a-token-of-this-test"
STEPS = {"num_inference_steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def server(painter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    with Library(folder) as library, running(create_app(library, painter, tokens=[TOKEN])) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def client(server, packs):
    with Client(server, TOKEN) as client:
        client.add_pack("pets", packs / "0.onnx_adapter")
        yield client


def near(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return max(np.abs(np.asarray(a, int) - np.asarray(b.convert("RGB"), int)).max() for a, b in pairs) <= 1


def test_it_draws_what_a_call_draws(client, painter, packs, picture):
    pack = painter.read_pack(packs / "0.onnx_adapter")
    asked = {"num_images": 2, "negative_prompt": "a car", "guidance_scale": 3.0, "scheduler": "dpm++", **STEPS}
    drawn = client.generate("a <new1> cat", concepts="pets", height=32, width=48, **asked | {"seed": np.int64(5)})
    own = painter.model.generate("a <new1> cat", concepts=pack, height=32, width=48, **asked)
    assert near(drawn.images, own.images)
    assert [record_of(image) for image in drawn.images] == [record_of(image) for image in own.images]
    assert client.generate("a giraffe", **STEPS).notes == painter.model.generate("a giraffe", **STEPS).notes
    drawn = client.img2img(picture, "a <new1> cat", strength=0.5, concepts="pets", **asked)
    assert near(
        drawn.images, painter.model.img2img(picture, "a <new1> cat", strength=0.5, concepts=pack, **asked).images
    )
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    drawn = client.inpaint(picture, hole, "a <new1> cat", concepts="pets", **asked)
    assert near(drawn.images, painter.model.inpaint(picture, hole, "a <new1> cat", concepts=pack, **asked).images)


def test_progress_is_told_and_changes_nothing(client):
    events = []
    followed = client.generate("a cat", progress=events.append, **STEPS)
    assert near(followed.images, client.generate("a cat", **STEPS).images)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].phase, events[-1].done, events[-1].total) == ("draw", 1000, 1000)


def test_packs_come_and_go(client, packs):
    client.add_pack("things", packs / "1.onnx_adapter")
    assert client.packs() == {"pets": ["<new1> cat", "<new2> dog"], "things": ["<new1> car", "<new2> house"]}
    client.remove_pack("things")
    assert list(client.packs()) == ["pets"]


def test_what_is_wrong_is_said_as_a_call_says_it(client, server, packs, tmp_path, picture):
    for call, kind, part in (
        (lambda: client.generate("a <new9> cat", concepts="pets"), InputError, "<new9>, which was not learned"),
        (lambda: client.generate("a cat", concepts="nobody"), MissingFileError, "no pack 'nobody'"),
        (lambda: client.generate("a cat", num_images=0), InputError, "n: "),
        (lambda: client.generate("a cat", guidance_scale=float("nan")), InputError, "cannot be sent"),
        (lambda: client.generate("\ud800"), InputError, "half a character"),
        (lambda: client.generate("a cat", height=32), InputError, "both height and width"),
        (lambda: client.generate("a <new9> cat", progress=print), InputError, "<new9>, which was not learned"),
        (lambda: client.inpaint(picture, picture, "a cat", height=5), InputError, "no argument 'height'"),
        (lambda: client.remove_pack("nobody"), MissingFileError, "no pack 'nobody'"),
        (lambda: client.remove_pack("../models"), MissingFileError, "status 404|Not Found|no pack"),
        (lambda: client.add_pack("x", tmp_path / "nothing"), MissingFileError, "no pack at"),
        (lambda: client.add_pack("a b", packs / "0.onnx_adapter"), InputError, "goes into prompts"),
        (lambda: client.add_pack("folder", packs / "0"), InputError, "damaged or no adapter"),
        (lambda: Client(server).packs(), ServerError, "send a token"),
        (lambda: Client(server, "another-token-of-nobody").generate("a cat"), ServerError, "send a token"),
        (lambda: Client("http://127.0.0.1:9").packs(), ServerError, "cannot be reached"),
        (lambda: Client("http://127.0.0.1:9").generate("a cat", progress=print), ServerError, "cannot be reached"),
        (lambda: Client("http://[bad"), InputError, "no address of a server"),
        (lambda: Client("localhost:8000"), InputError, "no address of a server"),
        (lambda: Client(server, "two\nlines"), InputError, "letters and digits"),
    ):
        with pytest.raises(kind, match=part):
            call()


def test_a_busy_server_is_asked_again(painter, tmp_path, monkeypatch):
    held = Held(painter, monkeypatch)
    monkeypatch.setattr("sdk.client.time.sleep", lambda seconds: held.free.set())
    with Library(tmp_path) as library, running(create_app(library, painter, limits=Limits(line=1))) as http:
        url, found = str(http.base_url), []

        def ask():
            found.append(Client(url).generate("a cat", **STEPS))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        threads[0].start()
        assert held.begun.acquire(timeout=60)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
