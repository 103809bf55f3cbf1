"""Killed at any moment, a command leaves nothing half done, and the next one ends with the bytes of an undisturbed run.

Thirty kills: of fits, which are resumed, and of merging, exporting, comparing and drawing, which are repeated.
"""

from __future__ import annotations

import hashlib
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
KILLS = {"fit": 10, "merge": 6, "export": 5, "compare": 4, "generate": 5}


class Workshop:
    """A photo, settings, two packs, and commands on them."""

    def __init__(self, folder, model, picture):
        self.folder, self.model = folder, str(model)
        picture.save(folder / "photo.png")
        (folder / "settings.toml").write_text(SETTINGS)
        (folder / "few.toml").write_text(SETTINGS.replace("60", "2"))
        for name, noun in (("first", "cat"), ("second", "dog")):
            fit = ["fit", "photo.png", "--concept", noun, "--output", name, "--config", "few.toml"]
            subprocess.run(self.command(fit), cwd=folder, check=True, capture_output=True)

    def command(self, arguments):
        return [sys.executable, "-m", "sdk.commands.main", *arguments, "--model", self.model, "--device", "cpu"]

    def arguments(self, kind, output, again=False):
        if kind == "fit":
            fit = ["fit", "photo.png", "--concept", "cat", "--concept", "dog", "--config", "settings.toml"]
            return [*fit, "--output", output, *(["--resume"] if again else [])]
        if kind == "compare":
            arms = ["--methods", "textual_inversion,custom_diffusion", "--steps", "2", "--prompts", "1"]
            return ["compare", "photo.png", "--concept", "cat", "--output", output, *arms]
        return {
            "merge": ["merge", "first", "second", "--output", output],
            "export": ["export", "first", "--format", "onnx", "--output", output],
            "generate": ["generate", "first", "--prompt", "a <new1> cat", "--steps", "4", "--output", output],
        }[kind]

    def result(self, kind, output):
        """What must be equal: bytes, but for times and memory; of pictures whatever their numbers are."""
        root = self.folder / output
        found = {}
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            name, data = file.relative_to(root).as_posix(), file.read_bytes()
            if file.name == "metrics.jsonl":
                lines = [json.loads(line) for line in data.splitlines()]
                data = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
            if file.name == "personalizer_onnx.json":  # it states how far PyTorch and ONNX Runtime were apart
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "largest_error"}).encode()
            if kind == "compare" and file.suffix in (".json", ".md", ".html") and file.parent == root:
                continue  # they hold seconds and megabytes
            digest = hashlib.sha256(data).hexdigest()
            found[digest if kind == "generate" else name] = digest
        return found


@pytest.fixture(scope="module")
def workshop(tiny_model, picture, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workshop")
        patch.setenv("PERSONALIZER_CACHE", str(folder / "cache"))
        yield Workshop(folder, tiny_model, picture)


@pytest.mark.parametrize("kind", KILLS)
def test_kills_at_random_moments(workshop, kind, monkeypatch):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(workshop.folder / "cache"))

    def run(arguments):
        done = subprocess.run(workshop.command(arguments), cwd=workshop.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    begin = time.monotonic()
    run(workshop.arguments(kind, f"{kind}-whole"))
    duration = time.monotonic() - begin
    undisturbed = workshop.result(kind, f"{kind}-whole")
    rng = random.Random(time.time_ns())  # other moments every time; the outcome must not depend on them
    for trial in range(KILLS[kind]):
        output = f"{kind}-{trial}"
        replaces = kind in ("merge", "export") and trial % 2 == 1
        if replaces:  # there is one already, and there must be one at every moment
            run(workshop.arguments(kind, output))
        process = subprocess.Popen(
            workshop.command(workshop.arguments(kind, output)),
            cwd=workshop.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        moment = rng.uniform(0.2, 1.0) * duration
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        there = workshop.folder / output
        if kind in ("fit", "merge", "export") and there.exists():
            left = workshop.result(kind, output)
            manifest = "personalizer_onnx.json" if kind == "export" else "personalizer.json"
            assert manifest in left, f"{kind}: half a result after a kill at {moment:.2f} s"
            assert left.items() <= undisturbed.items()
        assert there.exists() or not replaces, f"{kind}: neither the old nor the new one at {moment:.2f} s"
        run(workshop.arguments(kind, output, again=True))
        found = workshop.result(kind, output)
        assert found == undisturbed, f"{kind}: another result after a kill at {moment:.2f} s"
        if kind != "compare" and kind != "generate":
            done = run(["verify", output])
            assert "whole" in done.stdout
        hidden = [p for p in workshop.folder.rglob(".*") if "cache" not in p.parts]
        assert not hidden, f"{kind}: left after a kill at {moment:.2f} s"
        assert not list(workshop.folder.glob("*.partial"))
        print(f"{kind}: killed at {moment:.2f} s of {duration:.2f} s, the same bytes")
