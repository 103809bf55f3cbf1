"""The study's command on a seeded subset gives the recorded figures."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "study.csv"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RECORDED.is_file(), reason="no recorded study (benchmarks/results/study.csv)"),
]
SHOWN = ("fidelity", "leakage", "recognised", "text_alignment")


def test_a_subset_of_the_study_comes_out_as_recorded(tmp_path):
    """Bits differ between processors and thread counts, so pictures near a threshold may turn."""
    arms = ["disendiff:best", "custom_diffusion", "untouched"]
    file = tmp_path / "study.csv"
    command = [sys.executable, "-m", "benchmarks.study", "--csv", str(file), "--task", "two", "--scenes", "1"]
    subprocess.run([*command, "--arms", ",".join(arms)], cwd=ROOT, check=True, capture_output=True)
    recorded = {(r["arm"]): r for r in csv.DictReader(RECORDED.open()) if (r["concepts"], r["scene"]) == ("2", "0")}
    got = {r["arm"]: r for r in csv.DictReader(file.open())}
    assert set(got) == set(arms)
    for arm in arms:
        for name in SHOWN:
            assert float(got[arm][name]) == pytest.approx(float(recorded[arm][name]), abs=0.1), (arm, name)
