"""The tier can fail: each thing that may not be is planted and noticed in its column."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from tests.hostile.campaign import BAD, faults, run, table
from tests.hostile.case import random_of
from tests.hostile.kinds import KINDS, plan
from tests.hostile.planted import PLANTED


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What planted cases come to, by name; they do without the product."""
    workspace = tmp_path_factory.mktemp("planted")
    (workspace / "assets").mkdir()
    (workspace / "assets" / "photo.png").write_bytes(b"precious")
    hanging = [name for name in PLANTED if PLANTED[name][2] == "hang"]
    ended = []
    # What hangs would wait for the whole of a limit that the others are far from, on any machine.
    for names, limit in ((hanging, 2.0), ([name for name in PLANTED if name not in hanging], 60.0)):
        cases = [(f"planted {name}", 0, 0) for name in names]
        ended += run(cases, workspace, limit=limit, tries=2, prepared=False)
    return {outcome.kind.removeprefix("planted "): outcome for outcome in ended}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_noticed_in_its_column(outcomes, name):
    column = PLANTED[name][2]
    assert column in outcomes[name].columns if column else not outcomes[name].columns, outcomes[name]
    if column not in ("foreign", None):
        assert outcomes[name].columns.keys() <= {column, "foreign"}  # what is prevented ends in an exception too


def test_a_case_that_ends_its_worker_is_the_only_one_lost(outcomes):
    assert set(outcomes) == set(PLANTED)


def test_the_table_counts_every_column(outcomes):
    lines = table(list(outcomes.values())).splitlines()
    for name in ("handled", "foreign exceptions", "hangs", "silent", "memory over 1 GB", "files outside"):
        assert name in lines[0]
    counts = [int(count) for count in lines[-1].removeprefix("in all").split()]
    assert counts[0] == len(outcomes)
    assert counts[1] == sum(column is None for *_, column in PLANTED.values())
    assert len(counts[2:]) == len(BAD)
    assert all(count > 0 for count in counts)
    assert sum(count for count, _ in faults(list(outcomes.values()))) == sum(counts[2:])


def test_every_kind_has_its_share_and_a_case_depends_on_its_name_alone():
    cases = plan(1000, 7)
    assert 1000 <= len(cases) <= 1000 + len(KINDS)
    assert {kind for kind, *_ in cases} == set(KINDS)
    assert len(set(cases)) == len(cases)
    assert random_of("a", 1, 2).random() == random_of("a", 1, 2).random() != random_of("a", 1, 3).random()
