"""Killed at any moment, a fit leaves no half pack, and resuming ends with the hash of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
SETTINGS = """
steps = 60
batch_size = 4
target_pool = 8
prior_count = 4
prior_steps = 2
checkpoint_every = 3
"""


@pytest.fixture
def command(tiny_model, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "cache"))
    picture.save(tmp_path / "photo.png")
    (tmp_path / "settings.toml").write_text(SETTINGS)

    def build(output, *extra):
        arguments = [
            "fit",
            str(tmp_path / "photo.png"),
            "--concept",
            "cat",
            "--concept",
            "dog",
            "--output",
            str(output),
        ]
        arguments += [
            "--model",
            str(tiny_model),
            "--config",
            str(tmp_path / "settings.toml"),
            "--device",
            "cpu",
            *extra,
        ]
        return [sys.executable, "-m", "sdk.commands.main", *arguments]

    return build


def content_hash(pack) -> str:
    return json.loads((pack / "personalizer.json").read_text())["content_sha256"]


def test_kill_at_ten_random_moments(command, tmp_path):
    begin = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    duration = time.monotonic() - begin
    undisturbed = content_hash(tmp_path / "whole")
    rng = random.Random(time.time_ns())  # other moments every time; the outcome must not depend on them
    for trial in range(10):
        pack = tmp_path / f"pack{trial}"
        process = subprocess.Popen(command(pack), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = rng.uniform(0.2, 1.0) * duration
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if pack.exists():
            assert content_hash(pack) == undisturbed, f"half a pack after a kill at {moment:.2f} s"
        subprocess.run(command(pack, "--resume"), check=True, capture_output=True)
        assert content_hash(pack) == undisturbed, f"another pack after a kill at {moment:.2f} s"
        verify = [sys.executable, "-m", "sdk.commands.main", "verify", str(pack), "--device", "cpu"]
        subprocess.run(verify, check=True, capture_output=True)
        print(f"killed at {moment:.2f} s of {duration:.2f} s: resumed to the same hash")
