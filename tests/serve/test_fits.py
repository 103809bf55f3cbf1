"""Fits over HTTP: asked for, followed, cancelled, gone on with; and after a kill to the same bits."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx
from PIL import Image

from sdk import ConceptPack, Personalizer
from sdk.library import Library
from sdk.serve import Fitter, TorchPainter, create_app
from tests.serve.running import program, running

SETTINGS = {
    "steps": 4, "batch_size": 4, "target_pool": 4, "prior_count": 2, "prior_steps": 2, "learning_rate": 1e-3,
    "checkpoint_every": 1,
}  # fmt: skip


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def asked(name="pets", **settings):
    return {"concepts": "cat, dog", "name": name, "settings": json.dumps(SETTINGS | settings), "seed": "3"}


@pytest.fixture
def client(tiny_model, tmp_path):
    model, learner = (Personalizer.from_pretrained(tiny_model, device="cpu") for _ in range(2))
    with (
        Library(tmp_path) as library,
        Fitter(learner, library) as fitter,
        running(create_app(library, TorchPainter(model), fitter=fitter)) as client,
    ):
        yield client


def ended(client, id):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        now = client.get(f"/v1/fits/{id}").json()
        if now["status"] not in ("waiting", "running"):
            return now
        time.sleep(0.05)
    raise AssertionError(f"it did not end: {now}")


def test_a_fit_ends_in_a_pack_that_draws(client, picture, tmp_path):
    begun = client.post("/v1/fits", data=asked() | {"licence": "CC-BY-4.0"}, files={"image": png(picture)})
    assert begun.status_code == 202, begun.text
    assert begun.json()["concepts"] == ["cat", "dog"]
    described = client.get("/openapi.json").json()["paths"]["/v1/fits/{id}/events"]["get"]["responses"]["200"]
    assert described["content"].keys() == {"text/event-stream"}
    names, phases = [], set()
    with client.stream("GET", f"/v1/fits/{begun.json()['id']}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
            elif line.startswith("data: "):
                phases.add(json.loads(line[6:])["phase"])
    assert names[-1] == "done"
    assert "fit" in phases
    (model,) = [each for each in client.get("/v1/models").json()["data"] if each["id"] == "pets"]
    assert model["owned_by"] == "CC-BY-4.0"
    drawn = client.post(
        "/v1/images/generations", json={"model": "pets", "prompt": "a <new1> cat", "steps": 2, "seed": 1}
    )
    assert drawn.status_code == 200, drawn.text


def test_a_fit_is_cancelled_and_goes_on(client, picture):
    id = client.post("/v1/fits", data=asked(steps=400), files={"image": png(picture)}).json()["id"]
    waits = client.post("/v1/fits", data=asked("other"), files={"image": png(picture)}).json()["id"]
    until = time.monotonic() + 60
    while not client.get(f"/v1/fits/{id}").json()["losses"] and time.monotonic() < until:
        time.sleep(0.02)
    assert client.delete(f"/v1/fits/{waits}").json()["status"] == "cancelled"
    client.delete(f"/v1/fits/{id}")
    assert ended(client, id)["status"] == "cancelled"
    assert "pets" not in [each["id"] for each in client.get("/v1/models").json()["data"]]
    assert client.post(f"/v1/fits/{waits}/again").json()["status"] in ("waiting", "running")
    assert ended(client, waits)["status"] == "done"
    assert [each["id"] for each in client.get("/v1/fits").json()["data"]] == [waits, id]
    assert client.delete(f"/v1/fits/{id}").json()["status"] == "cancelled"
    assert [each["id"] for each in client.get("/v1/fits").json()["data"]] == [waits]


def test_masks_are_used(client, picture, tmp_path):
    masks = []
    for box in ((0, 0, 32, 64), (32, 0, 64, 64)):
        mask = Image.new("L", picture.size)
        mask.paste(255, box)
        masks.append(("masks", png(mask)))
    begun = client.post("/v1/fits", data=asked(steps=1), files=[("image", png(picture)), *masks])
    assert ended(client, begun.json()["id"])["status"] == "done"
    one = client.post("/v1/fits", data=asked(), files=[("image", png(picture)), masks[0]])
    assert one.status_code == 400
    assert "a mask for each of the 2 concepts" in one.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"name": "a b"}, "goes into prompts"),
        ({"name": "base"}, "base is the base model"),
        ({"concepts": ""}, "concept"),
        ({"method": "magic"}, "magic"),
        ({"preset": "magic"}, "magic"),
        ({"settings": "[]"}, "settings must be a JSON object"),
        ({"settings": "{"}, "settings"),
        ({"settings": '{"steps": -5}'}, "steps"),
        ({"settings": '{"magic": 5}'}, "magic"),
        ({"settings": '{"method": "attencraft"}'}, "no setting 'method'"),
        ({"settings": '{"self": 5}'}, "no setting 'self'"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_cannot_be_fitted_is_refused_at_once(client, picture, changed, part):
    answer = client.post("/v1/fits", data=asked() | changed, files={"image": png(picture)})
    assert answer.status_code == 400, answer.text
    assert part in answer.json()["error"]["message"]
    assert client.get("/v1/fits").json()["data"] == []


def test_what_fails_says_why(client):
    id = client.post("/v1/fits", data=asked(learning_rate=1e30), files={"image": png(noise())}).json()["id"]
    now = ended(client, id)
    assert now["status"] == "failed"
    assert "learning rate" in now["message"] or "learning_rate" in now["message"], now["message"]
    assert "/tmp" not in now["message"]
    assert client.get("/v1/fits/999").status_code == 404
    assert client.delete("/v1/fits/999").status_code == 404


def noise():
    return Image.effect_noise((64, 64), 60).convert("RGB")


def test_exported_folders_cannot_fit(painter, picture, tmp_path):
    with Library(tmp_path) as library, running(create_app(library, painter)) as client:
        for answer in (
            client.post("/v1/fits", data=asked(), files={"image": png(picture)}), client.get("/v1/fits"),
        ):  # fmt: skip
            assert answer.status_code == 400
            assert "cannot fit" in answer.json()["error"]["message"]


@contextmanager
def served(library, model):
    """The command in a process of its own; a client of it, and the process."""
    with (
        program("serve", library, str(library), "--model", str(model)) as (address, process),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client, process


def test_after_a_kill_it_goes_on_to_the_same_bits(tiny_model, picture, tmp_path):
    steps = 60
    with served(tmp_path / "library", tiny_model) as (client, process):
        id = client.post("/v1/fits", data=asked(steps=steps), files={"image": png(picture)}).json()["id"]
        until = time.monotonic() + 120
        while (now := client.get(f"/v1/fits/{id}").json())["done"] < 5 or now["phase"] != "fit":
            assert now["status"] in ("waiting", "running"), now
            assert time.monotonic() < until
        os.kill(process.pid, signal.SIGKILL)
    with served(tmp_path / "library", tiny_model) as (client, process):
        assert ended(client, id)["status"] == "done"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    config = alone.default_config(**SETTINGS | {"steps": steps})
    pack = alone.fit(picture, ["cat", "dog"], config=config, seed=3)
    with Library(tmp_path / "library") as library:
        kept = ConceptPack.from_pretrained(library.packs.get("pets").path)
    assert kept.content_hash() == pack.content_hash()
