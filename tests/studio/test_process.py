"""The studio as a process: who may ask it, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx

from sdk import ConceptPack, Personalizer
from sdk.images.image_io import png
from sdk.library import Library
from tests.serve.running import program

FIT = {
    "batch_size": 4, "target_pool": 4, "prior_count": 2, "prior_steps": 2, "learning_rate": 1e-3, "checkpoint_every": 1,
}  # fmt: skip


def served(library, model):
    return program("studio", library, "--library", str(library), "--model", str(model), "--no-browser")


def test_after_a_kill_a_fit_goes_on_to_the_same_bits(tiny_model, picture, tmp_path):
    settings = FIT | {"steps": 40}
    asked = {"name": "pets", "concepts": ["cat", "dog"], "method": "disendiff", "preset": "best", "settings": settings}
    with Library(tmp_path / "library") as library:
        job = library.jobs.add(asked | {"seed": 3, "masks": 0}, {"photo.png": png(picture)})
    unfinished = job.folder / "pack.partial" / "metrics.jsonl"

    def steps():
        return unfinished.read_text().count("\n") - 1 if unfinished.exists() else 0

    with served(tmp_path / "library", tiny_model) as (address, process):
        until = time.monotonic() + 120
        while steps() < 12:  # samples have been drawn by then
            assert time.monotonic() < until
            assert steps() < 40
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    with served(tmp_path / "library", tiny_model) as (address, process):
        until = time.monotonic() + 120
        while job.folder.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        page = httpx.get(address)
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for headers in ({"host": "example.com"}, {"origin": "http://example.com"}):
            assert httpx.get(address, headers=headers).status_code == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    pack = alone.fit(picture, ["cat", "dog"], config=alone.default_config(**settings), seed=3)
    with Library(tmp_path / "library") as library:
        kept = ConceptPack.from_pretrained(library.packs.get("pets").path)
    assert kept.content_hash() == pack.content_hash()
