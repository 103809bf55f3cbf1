"""The running server, asked over the network: what it draws, what it refuses, and what it says then."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx

from sdk.errors import NotFiniteError
from sdk.images.image_io import square
from sdk.images.record import record_of
from sdk.library import Library
from sdk.serve import Limits, create_app
from tests.serve.running import DRAW, EDIT, STEPS, Held, opened, pixels, refusal, running


def test_it_draws_what_a_call_draws(client, painter, packs):
    answer = client.post(DRAW, json={"model": "pets", "prompt": "a <new1> cat", "n": 2, **STEPS})
    assert answer.status_code == 200
    said = answer.json()
    assert [each["seed"] for each in said["data"]] == [5, 6]
    assert said["notes"] == []
    pack = painter.read_pack(packs / "0.onnx_adapter")
    own = painter.model.generate("a <new1> cat", concepts=pack, num_images=2, seed=5, num_inference_steps=2).images
    for each, image in zip(said["data"], own, strict=True):
        assert np.abs(pixels(opened(each["b64_json"])) - pixels(image)).max() <= 1
    record = record_of(opened(said["data"][1]["b64_json"]))
    assert (record.prompt, record.seed, record.concepts) == ("a <new1> cat", 6, ("<new1> cat", "<new2> dog"))


def test_packs_and_the_base_model_are_listed_put_and_removed(client, packs):
    listed = client.get("/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["base", "pets", "things"]
    assert listed[1]["concepts"] == [{"token": "<new1>", "noun": "cat"}, {"token": "<new2>", "noun": "dog"}]
    before = client.post(DRAW, json={"model": "pets", "prompt": "a <new1> cat", **STEPS}).json()["data"]
    content = (packs / "1.onnx_adapter").read_bytes()
    assert client.put("/v1/models/pets", content=content).json()["concepts"][0]["noun"] == "car"
    refusal(client.post(DRAW, json={"model": "pets", "prompt": "a <new1> cat", **STEPS}), 400, "<new1> car")
    after = client.post(DRAW, json={"model": "pets", "prompt": "a <new1> car", **STEPS}).json()["data"]
    assert after != before
    assert client.delete("/v1/models/pets").json() == {"id": "pets", "object": "model", "deleted": True}
    refusal(client.post(DRAW, json={"model": "pets", "prompt": "a cat", **STEPS}), 404, "no pack 'pets'")
    refusal(client.get("/v1/models/pets"), 404, "no pack 'pets'")
    refusal(client.delete("/v1/models/pets"), 404, "no pack 'pets'")
    assert client.post(DRAW, json={"prompt": "a cat", **STEPS}).status_code == 200
    for method in (client.put, client.delete):
        assert method("/v1/models/base").status_code == 400


def test_requests_of_different_packs_share_batches_and_get_their_own_pictures(client):
    asked = [("pets", "a <new1> cat"), ("things", "a <new2> house"), ("base", "a cat")] * 3
    alone = {
        one: client.post(DRAW, json={"model": one[0], "prompt": one[1], "steps": 8, "seed": 7}).json()["data"][0]
        for one in set(asked)
    }
    found: list = [None] * len(asked)

    def ask(index):
        model, prompt = asked[index]
        answer = client.post(DRAW, json={"model": model, "prompt": prompt, "steps": 8, "seed": 7})
        found[index] = answer.json()["data"][0]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, got in zip(asked, found, strict=True):
        assert np.abs(pixels(opened(got["b64_json"])) - pixels(opened(alone[one]["b64_json"]))).max() <= 1
    counted = client.get("/metrics").text
    batches = float(counted.split("personalizer_batch_rows_count ")[1].split()[0])
    assert float(counted.split("personalizer_batch_rows_sum ")[1].split()[0]) == 12
    assert batches < 10


def test_pictures_by_address(client):
    answer = client.post(DRAW, json={"prompt": "a cat", "response_format": "url", "n": 2, **STEPS}).json()
    for each in answer["data"]:
        got = client.get(each["url"])
        assert got.headers["content-type"] == "image/png"
        assert record_of(Image.open(io.BytesIO(got.content))).seed == each["seed"]
    refusal(client.get("/v1/pictures/000000000000000000000000.png"), 404, "no such picture")
    assert client.get("/v1/pictures/..%2Flibrary.sqlite3.png").status_code == 404


def test_events_tell_of_progress_and_end_with_the_pictures(client):
    events = []
    with client.stream("POST", DRAW, json={"prompt": "a giraffe", "stream": True, **STEPS}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                events.append([line[7:]])
            elif line.startswith("data: "):
                events[-1].append(json.loads(line[6:]))
    assert [name for name, _ in events[:-1]] == ["progress"] * (len(events) - 1)
    assert [data["share"] for _, data in events[:-1]] == [0.0, 0.5, 1.0][: len(events) - 1]
    name, data = events[-1]
    assert name == "completed"
    assert "'giraffe'" in data["notes"][0]
    assert opened(data["data"][0]["b64_json"]).size == (32, 32)


def test_programs_are_told_that_answers_may_be_events(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path in (DRAW, EDIT):
        assert {"application/json", "text/event-stream"} == paths[path]["post"]["responses"]["200"]["content"].keys()


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_edits_with_a_mask_in_white_or_transparency_and_without(client, picture):
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    clear = picture.convert("RGBA")
    clear.putalpha(hole.point(lambda level: 255 - level))
    given = {"model": "pets", "prompt": "a <new1> cat", "steps": "2", "seed": "5"}
    drawn = [client.post(EDIT, data=given, files={"image": png(picture), "mask": png(mask)}) for mask in (hole, clear)]
    assert drawn[0].status_code == 200, drawn[0].text
    white, transparent = (opened(each.json()["data"][0]["b64_json"]) for each in drawn)
    assert white.tobytes() == transparent.tobytes()
    assert np.array_equal(pixels(white)[:, 20:], pixels(square(picture, 32))[:, 20:])
    anew = client.post(EDIT, data=given | {"strength": "0.5", "n": "2"}, files={"image": png(picture)})
    assert [each["seed"] for each in anew.json()["data"]] == [5, 6]
    assert record_of(opened(anew.json()["data"][0]["b64_json"])).strength == 0.5
    refusal(client.post(EDIT, data=given, files={"image": b"no picture"}), 400, "cannot be read")
    refusal(client.post(EDIT, data=given | {"n": "0"}, files={"image": png(picture)}), 400, "n: ")
    refusal(client.post(EDIT, data=given | {"strength": "2"}, files={"image": png(picture)}), 400, "strength: ")
    refusal(client.post(EDIT, data=given | {"speed": "slow"}, files={"image": png(picture)}), 400, "speed: ")
    black = png(Image.new("L", picture.size))
    refusal(client.post(EDIT, data=given, files={"image": png(picture), "mask": black}), 400, "black everywhere")


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"prompt": "a <new9> cat"}, "<new9>, which was not learned"),
        ({"prompt": ""}, "empty"),
        ({"prompt": 5}, "prompt: Input should be a valid string"),
        ({}, "prompt: Field required"),
        ({"prompt": "a cat", "n": 5}, "n may be at most 4"),
        ({"prompt": "a cat", "n": 0}, "n: "),
        ({"prompt": "a cat", "n": True}, "n: "),
        ({"prompt": "a cat", "steps": 51}, "steps may be at most 50"),
        ({"prompt": "a cat", "size": "96x96"}, "size may be at most 64x64"),
        ({"prompt": "a cat", "size": "33x32"}, "width must be a positive multiple of 8"),
        ({"prompt": "a cat", "size": "big"}, "size: "),
        ({"prompt": "a cat", "speed": "slow"}, "speed: Input should be 'exact', 'balanced' or 'fast'"),
        ({"prompt": "a cat", "seed": -1}, "seed: "),
        ({"prompt": "a cat", "seed": 2**63}, "seed: "),
        ({"prompt": "a cat", "negative_prompt": "a <new1> cat"}, "<new1>, which was not learned"),
        ({"prompt": "x" * 20_001}, "prompt: "),
        ({"prompt": "\ud800"}, ""),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(client, asked, part):
    content = json.dumps(asked | ({"steps": 2} if "steps" not in asked else {}))
    refusal(client.post(DRAW, content=content, headers={"content-type": "application/json"}), 400, part)


def test_what_overflows_is_no_bug(painter, tmp_path, monkeypatch):
    def overflows(*given):
        raise NotFiniteError("the latents hold NaN; take a smaller guidance_scale")

    monkeypatch.setattr(painter, "draw", overflows)
    with Library(tmp_path) as library, running(create_app(library, painter)) as client:
        refusal(client.post(DRAW, json={"prompt": "a cat"}), 422, "take a smaller guidance_scale")


def test_a_full_line_is_429_and_loses_nothing(painter, tmp_path, monkeypatch):
    held = Held(painter, monkeypatch)
    limits = Limits(line=2)
    with Library(tmp_path) as library, running(create_app(library, painter, limits=limits)) as client:
        answers = []

        def ask():
            answers.append(client.post(DRAW, json={"prompt": "a cat", **STEPS}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        threads[0].start()
        assert held.begun.acquire(timeout=60)
        for thread in threads[1:]:
            thread.start()
        while "personalizer_waiting 2.0" not in client.get("/metrics").text:
            time.sleep(0.02)
        full = client.post(DRAW, json={"prompt": "a cat", **STEPS})
        refusal(full, 429, "try again later")
        assert int(full.headers["retry-after"]) >= 1
        held.free.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * 3


def test_time_runs_out_and_clients_go(painter, tmp_path, monkeypatch):
    free, cancelled = threading.Event(), threading.Event()

    def slow(rows, how, progress, cancel):
        from sdk.runtime import Cancelled, Event

        while not free.is_set():
            progress(Event("draw", 0, 2))
            if cancel.is_set():
                cancelled.set()
                raise Cancelled
            time.sleep(0.01)
        return [Image.new("RGB", (32, 32)) for _ in rows]

    monkeypatch.setattr(painter, "draw", slow)
    limits = Limits(seconds=0.5)
    with Library(tmp_path) as library, running(create_app(library, painter, limits=limits)) as client:
        refusal(client.post(DRAW, json={"prompt": "a cat"}), 408, "longer than 0.5 seconds")
        assert cancelled.wait(20)
    cancelled.clear()
    with Library(tmp_path) as library, running(create_app(library, painter)) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(DRAW, json={"prompt": "a cat"}, timeout=0.3)
        assert cancelled.wait(20)
        free.set()
        assert client.post(DRAW, json={"prompt": "a cat"}).status_code == 200


def test_a_pack_that_was_damaged_here_is_not_told_with_its_path(client, tmp_path):
    for file in (tmp_path / "packs").iterdir():
        file.write_bytes(b"damaged")
    refusal(
        client.post(DRAW, json={"model": "pets", "prompt": "a <new1> cat", **STEPS}), 400, "the pack pets is damaged"
    )


def test_what_cannot_be_written_is_the_servers_own(client, tmp_path):
    import shutil

    shutil.rmtree(tmp_path / "pictures")
    asked = {"prompt": "a cat", "response_format": "url", **STEPS}
    refusal(client.post(DRAW, json=asked), 503, "the server cannot write")
    told = client.post(DRAW, json=asked | {"stream": True}).text
    assert "the server cannot write" in told
    assert "/tmp" not in told


def test_mistakes_are_one_sentence_too(painter, tmp_path, monkeypatch):
    def broken(*given):
        raise RuntimeError("secret")

    monkeypatch.setattr(painter, "check", broken)
    with Library(tmp_path) as library, running(create_app(library, painter)) as client:
        refusal(client.post(DRAW, json={"prompt": "a cat"}), 500, "a mistake of the server")


def test_the_end_refuses_who_waits(painter, tmp_path, monkeypatch):
    held = Held(painter, monkeypatch)
    with Library(tmp_path) as library:
        app = create_app(library, painter)
        with running(app) as client:
            answers = {}

            def ask(steps):
                answers[steps] = client.post(DRAW, json={"prompt": "a cat", "steps": steps}).status_code

            threads = [threading.Thread(target=ask, args=(steps,)) for steps in (2, 3)]
            threads[0].start()
            assert held.begun.acquire(timeout=60)
            threads[1].start()
            while "personalizer_waiting 1.0" not in client.get("/metrics").text:
                time.sleep(0.02)
            app.end()
            threads[1].join()
            assert client.get("/readyz").status_code == 503
            held.free.set()
            threads[0].join()
            assert answers == {2: 200, 3: 503}
