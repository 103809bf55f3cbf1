"""A thousand hostile inputs of all kinds: each works honestly or is refused in one line, and does nothing else."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from tests.hostile.campaign import faults, run, table
from tests.hostile.kinds import KINDS, plan
from tests.hostile.planted import UNTOUCHED

COUNT, SEED = 1000, 0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What every case came to."""
    valid = [(f"planted {name}", 0, 0) for name in UNTOUCHED]
    return list(run([*valid, *plan(COUNT, SEED)], tmp_path_factory.mktemp("hostile")))


def test_valid_inputs_are_taken(outcomes):
    """Else what generators make of them is refused for another reason than they mean."""
    valid = [outcome for outcome in outcomes if outcome.kind.startswith("planted ")]
    assert len(valid) == len(UNTOUCHED)
    noted = "attention does not show"  # a random model's never does
    bad = [str(o) for o in valid if o.columns or (o.message and not o.message.startswith(noted))]
    assert not bad, "\n".join(bad)


def test_a_thousand_inputs(outcomes):
    outcomes = [outcome for outcome in outcomes if outcome.kind in KINDS]
    assert len(outcomes) >= COUNT
    bad = [f"{number} times: {first}" for number, first in faults(outcomes)]
    assert not bad, "\n".join([*bad, table(outcomes)])
