"""The tier can fail: each thing that may not be is planted and noticed, and valid inputs get through to the product."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from tests.hostile.campaign import BAD, faults, run, table
from tests.hostile.case import random_of
from tests.hostile.kinds import KINDS, plan
from tests.hostile.planted import PLANTED, UNTOUCHED


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What planted and valid cases come to, by name."""
    names = [*PLANTED, *UNTOUCHED]
    cases = [(f"planted {name}", 0, 0) for name in names]
    # A hang is waited for; the others take milliseconds, so that a short limit is a long time.
    ended = run(cases, tmp_path_factory.mktemp("planted"), limit=5)
    return {outcome.kind.removeprefix("planted "): outcome for outcome in ended}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_noticed_in_its_column(outcomes, name):
    column = PLANTED[name][2]
    assert column in outcomes[name].columns if column else not outcomes[name].columns, outcomes[name]
    if column not in ("foreign", None):
        assert outcomes[name].columns.keys() <= {column, "foreign"}  # what is prevented ends in an exception too


@pytest.mark.parametrize("name", UNTOUCHED)
def test_valid_inputs_are_taken(outcomes, name):
    assert not outcomes[name].columns, outcomes[name]
    assert not outcomes[name].message


def test_nothing_that_is_prevented_happened(outcomes):

    assert set(outcomes) == {*PLANTED, *UNTOUCHED}


def test_the_table_counts_every_column(outcomes):
    lines = table(list(outcomes.values())).splitlines()
    for name in ("handled", "foreign exceptions", "hangs", "silent", "memory over 1 GB", "files outside"):
        assert name in lines[0]
    last = lines[-1].split()
    assert int(last[2]) == len(outcomes)
    assert all(int(count) > 0 for count in last[3:])
    assert len(last[4:]) == len(BAD)
    assert sum(count for count, _ in faults(list(outcomes.values()))) >= len([n for n in PLANTED if PLANTED[n][2]])


def test_every_kind_has_its_share_and_a_case_depends_on_its_name_alone():
    cases = plan(1000, 7)
    assert 1000 <= len(cases) <= 1000 + len(KINDS)
    assert {kind for kind, *_ in cases} == set(KINDS)
    assert len(set(cases)) == len(cases)
    assert random_of("a", 1, 2).random() == random_of("a", 1, 2).random() != random_of("a", 1, 3).random()
