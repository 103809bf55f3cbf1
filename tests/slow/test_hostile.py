"""Twenty thousand hostile inputs of a seed that may be chosen, on a real export; the table is printed.

``HOSTILE_SEED`` chooses other inputs, ``HOSTILE_COUNT`` how many, ``HOSTILE_REPORT`` a file for what is not handled.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from tests.hostile.campaign import faults, run, table, write
from tests.hostile.kinds import plan

pytestmark = pytest.mark.slow


def test_twenty_thousand_inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE_EXPORT", "real")
    seed, count = int(os.environ.get("HOSTILE_SEED", "1")), int(os.environ.get("HOSTILE_COUNT", "20000"))
    outcomes = list(run(plan(count, seed), tmp_path / "hostile", workers=2))
    print(f"\nseed {seed}\n{table(outcomes)}")
    if "HOSTILE_REPORT" in os.environ:
        write(outcomes, Path(os.environ["HOSTILE_REPORT"]))
    assert len(outcomes) >= count
    bad = [f"{number} times: {first}" for number, first in faults(outcomes)]
    assert not bad, "\n".join(bad)
