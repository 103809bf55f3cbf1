"""A thousand hostile inputs of all kinds: each works honestly or is refused in one line, and does nothing else."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from tests.hostile.campaign import faults, run, table
from tests.hostile.kinds import plan

COUNT, SEED = 1000, 0


def test_a_thousand_inputs(tmp_path):
    outcomes = list(run(plan(COUNT, SEED), tmp_path / "hostile"))
    assert len(outcomes) >= COUNT
    bad = [f"{number} times: {first}" for number, first in faults(outcomes)]
    assert not bad, "\n".join([*bad, table(outcomes)])
