"""Fleets on Ray: killed workers, nodes and commands change no bit."""

from __future__ import annotations

import sys

import pytest

from sdk.commands.main import main
from sdk.errors import InputError
from sdk.fleet import fit_many
from tests.fleet.killing import kill_child, killed_once

pytest.importorskip("ray", reason="ray is not installed: pip install 'personalizer-sdk[ray]'")


def test_a_killed_worker_changes_no_bit(jobs, tiny_model, tmp_path):
    usual = {"model": tiny_model, "device": "cpu", "threads": 1}
    alone = fit_many(jobs, tmp_path / "alone", **usual)
    killed = killed_once(tmp_path / "out", lambda: kill_child("ray::_Actor"))
    seen = []
    bad = {"image": str(tmp_path / "none.png"), "concepts": ["cat"], "name": "bad"}
    (tmp_path / "hostile.png").write_bytes(b"no picture")
    hostile = {"image": str(tmp_path / "hostile.png"), "concepts": ["cat"]}
    result = fit_many([*jobs, bad, hostile], tmp_path / "out", engine="ray", workers=2, watch=seen.append, **usual)
    assert killed
    assert [each.status for each in result.outcomes] == ["done"] * 3 + ["failed"] * 2, result.failed
    assert str(tmp_path / "hostile.png") in result.outcomes[4].reason  # as the row has it, not as the worker does
    assert [o.content_sha256 for o in result.outcomes[:3]] == [o.content_sha256 for o in alone.outcomes]
    assert seen[0].total == 5
    assert seen[0].failed == 1
    assert any(status.running for status in seen)
    assert all(s.done + s.failed + len(s.running) + s.left == s.total for s in seen)


def test_a_cluster_that_is_not_there_is_said(jobs, tmp_path):
    with pytest.raises(InputError, match="ray start --head"):
        fit_many(jobs, tmp_path / "out", engine="ray", address="nowhere:1:2")


def test_without_ray_one_line_says_how_to_get_it(jobs, tmp_path, monkeypatch, capsys):
    (tmp_path / "jobs.csv").write_text("image,concepts\npets.png,cat\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sdk.fleet.engines.ray", raising=False)
    arguments = ["fit-many", str(tmp_path / "jobs.csv"), "--output", str(tmp_path / "out"), "--address", "auto"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "pip install 'personalizer-sdk[ray]'" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_workers_nodes_and_commands_may_be_killed(tmp_path):
    from benchmarks.fleet.fits import trial

    found = trial(tmp_path, fits=12, kills=1, workers=2, model="bundled")
    assert found["killed"] == {"worker": 1, "node": 1, "command": 1}
    assert found["same bits"]
    assert found["fits"] == 12
