"""Many fits at once: each ends as it would alone, whatever happens to the others."""

from __future__ import annotations

import csv
import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from sdk import ConceptPack, Personalizer
from sdk.commands.main import main
from sdk.fleet import Job, fit_many
from sdk.fleet.engines.local import Processes
from sdk.fleet.tasks import Loading
from sdk.runtime import Cancelled
from tests.fleet.killing import killed_once
from tests.fleet.quick import QUICK


def contents(result):
    return [each.content_sha256 for each in result.outcomes]


def test_each_fit_is_what_it_is_alone_and_is_done_once(jobs, tiny_model, tmp_path):
    usual = {"model": tiny_model, "device": "cpu", "threads": torch.get_num_threads()}  # which last bits depend on
    result = fit_many(jobs, tmp_path / "out", **usual)
    assert [each.status for each in result.outcomes] == ["done"] * 3
    assert result.fitted == 3
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    config = alone.default_config(**QUICK)
    for job, outcome in zip(jobs, result.outcomes, strict=True):
        pack = ConceptPack.from_pretrained(tmp_path / "out" / outcome.pack)
        assert pack.content_hash() == outcome.content_sha256
        assert pack.content_hash() == alone.fit(job.image, job.concepts, config=config, seed=job.seed).content_hash()
    again = fit_many(jobs, tmp_path / "out", **usual)
    assert again.fitted == 0
    assert contents(again) == contents(result)
    jobs[1] = Job(image=jobs[1].image, concepts=jobs[1].concepts, settings=QUICK, seed=9)
    changed = fit_many(jobs, tmp_path / "out", **usual)
    assert changed.fitted == 1
    assert [a == b for a, b in zip(contents(changed), contents(result), strict=True)] == [True, False, True]


def test_what_fails_is_a_line_with_its_reason(jobs, tiny_model, tmp_path):
    (tmp_path / "hostile.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 64)
    rows = [
        jobs[0],
        {"image": str(tmp_path / "missing.png"), "concepts": ["cat"]},
        {"image": str(tmp_path / "hostile.png"), "concepts": ["cat"], "name": "<b>hostile</b>"},
        {"image": str(tmp_path / "pets.png"), "concepts": ["cat"], "settings": {"learning_rate": float("nan")}},
        Job(image=jobs[0].image, concepts=jobs[0].concepts, settings=QUICK, name="the same as the first"),
    ]
    result = fit_many(rows, tmp_path / "out", model=tiny_model, device="cpu", threads=1)
    assert [each.status for each in result.outcomes] == ["done", "failed", "failed", "failed", "done"]
    assert result.fitted == 2  # of the same two one, and the hostile file, which only shows when it is opened
    assert result.outcomes[0].pack == result.outcomes[4].pack
    for outcome, reason in zip(result.failed, ("missing.png", "hostile.png", "learning_rate"), strict=True):
        assert reason in outcome.reason
        assert "\n" not in outcome.reason
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == [each.status for each in result.outcomes]
    page = (tmp_path / "out" / "summary.html").read_text()
    assert "2 of 5 done, 3 failed" in page
    assert "&lt;b&gt;hostile" in page
    assert "<b>hostile" not in page
    assert page.index("missing.png") < page.index(result.outcomes[0].pack)  # the worst first


def kill_worker():
    """Kill one of this process's workers; return its number, or None where there is none."""
    for each in multiprocessing.active_children():
        each.kill()
        return each.pid
    return None


def test_workers_may_be_killed_and_the_bits_stay(jobs, tiny_model, tmp_path):
    alone = fit_many(jobs, tmp_path / "alone", model=tiny_model, device="cpu", threads=1)
    killed = killed_once(tmp_path / "out", kill_worker)
    result = fit_many(jobs, tmp_path / "out", model=tiny_model, device="cpu", threads=1, workers=2)
    assert killed
    assert [each.status for each in result.outcomes] == ["done"] * 3, result.failed
    assert contents(result) == contents(alone)
    assert not multiprocessing.active_children()


def test_it_can_be_cancelled_and_goes_on(jobs, tiny_model, tmp_path):
    cancel = threading.Event()

    def progress(event):
        if event.phase == "fleet" and event.done == 1:
            cancel.set()

    with pytest.raises(Cancelled):
        fit_many(
            jobs,
            tmp_path / "out",
            model=tiny_model,
            device="cpu",
            threads=1,
            workers=2,
            progress=progress,
            cancel=cancel,
        )
    assert not multiprocessing.active_children()
    result = fit_many(jobs, tmp_path / "out", model=tiny_model, device="cpu", threads=1)
    assert [each.status for each in result.outcomes] == ["done"] * 3
    assert result.fitted < 3


def test_workers_that_only_load_are_ended_at_once(jobs, tiny_model, tmp_path):
    engine = Processes(str(tmp_path), Loading(tiny_model, "cpu"), 1, 1)
    worker = engine.begin()
    engine.end([worker])
    assert worker.process.exitcode == -signal.SIGKILL


def test_what_is_not_installed_is_named_when_it_is_wanted(jobs, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sdk.fleet.engines.ray", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"fit_many needs ray; run: pip install 'personalizer-sdk\[ray\]'"):
        fit_many(jobs, tmp_path / "out", model=tiny_model, engine="ray")


def test_a_model_that_cannot_be_loaded_is_said_once(jobs, tmp_path):
    with pytest.raises(Exception, match="missing-model"):
        fit_many(jobs, tmp_path / "out", model=tmp_path / "missing-model", workers=2)


def test_a_command_that_was_killed_goes_on(jobs, tiny_model, tmp_path):
    table = tmp_path / "jobs.jsonl"
    settings = str(QUICK).replace("'", '"')
    table.write_text(
        "".join(
            f'{{"image": "pets.png", "concepts": ["cat", "dog"], "settings": {settings}, "seed": {n}}}\n'
            for n in range(3)
        )
    )
    arguments = ["fit-many", str(table), "--model", str(tiny_model), "--device", "cpu", "--threads", "1"]
    command = [
        sys.executable,
        "-m",
        "sdk.commands.main",
        *arguments,
        "--workers",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob("packs/*.partial/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "alone")]) == 0
    tables = [(tmp_path / name / "results.csv").read_text().splitlines() for name in ("out", "alone")]
    hashes = [[row["content_sha256"] for row in csv.DictReader(lines)] for lines in tables]
    assert hashes[0] == hashes[1]
    assert all(hashes[0])


def test_the_command_says_what_failed_and_returns_2(jobs, tiny_model, tmp_path, capsys):
    table = tmp_path / "jobs.csv"
    table.write_text("image,concepts,name\nmissing.png,cat; dog,nobody\n")
    assert main(["fit-many", str(table), "--output", str(tmp_path / "out"), "--model", str(tiny_model)]) == 2
    said = capsys.readouterr()
    assert "failed: nobody: " in said.out
    assert "missing.png" in said.out
    assert "0 of 1 done" in said.out
    assert "1 of 1 fits failed" in said.err
    assert main(["fit-many", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_picture_that_changes_while_the_fleet_runs_is_no_pack(jobs, picture, tiny_model, tmp_path):
    def progress(event):
        if event.phase == "fleet" and event.done == 1:
            picture.rotate(90).save(tmp_path / "pets.png")

    result = fit_many(jobs[:2], tmp_path / "out", model=tiny_model, device="cpu", threads=1, progress=progress)
    assert [each.status for each in result.outcomes] == ["done", "failed"]
    assert "changed while the fleet ran" in result.outcomes[1].reason
    assert not (tmp_path / "out" / "packs" / result.outcomes[1].id).exists()


def test_a_pack_without_a_record_or_a_record_without_a_pack(jobs, tiny_model, tmp_path):
    usual = {"model": tiny_model, "device": "cpu", "threads": 1}
    (outcome,) = fit_many(jobs[:1], tmp_path / "out", **usual).outcomes
    (tmp_path / "out" / "jobs" / f"{outcome.id}.json").unlink()
    assert [fit_many(jobs[:1], tmp_path / "out", **usual).fitted for _ in range(2)] == [1, 0]
    for file in (tmp_path / "out" / outcome.pack).iterdir():
        file.unlink()
    again = fit_many(jobs[:1], tmp_path / "out", **usual)
    assert again.fitted == 1
    assert contents(again) == [outcome.content_sha256]


def test_a_name_is_no_formula_of_a_spreadsheet(jobs, tiny_model, tmp_path):
    row = {"image": "none.png", "concepts": ["cat"], "name": "=HYPERLINK(1)"}
    fit_many([row], tmp_path / "out", model=tiny_model, device="cpu")
    assert "\n'=HYPERLINK(1),failed" in (tmp_path / "out" / "results.csv").read_text()
