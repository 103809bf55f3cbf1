"""The study's tables say what the rows say: pairs by scene, and nothing that is not significant."""

from __future__ import annotations

import json

import pytest

from benchmarks.study import short
from benchmarks.study.measures import interval
from benchmarks.study.orderings import measure_of, verdict
from benchmarks.study.summary import by_scene, summary
from benchmarks.study.worth import gathered, table


def rows(arm: str, fidelity: list[float], first: int = 0) -> list[dict]:
    return [
        {"concepts": 2, "scene": first + i, "arm": arm, "fidelity": value, "image_together": 1.0, "image_1": value}
        | {"image_2": 0.5}
        for i, value in enumerate(fidelity)
    ]


def test_differences_are_of_scenes_that_both_were_run_on():
    found = [*rows("a", [0.5, 0.5, 0.5, 0.9]), *rows("b", [0.6, 0.7, 0.6]), *rows("c", [0.0], first=7)]
    lines = summary(found, "a", ["fidelity"]).splitlines()
    assert lines[2].startswith("| b | 3 | (+0.133 [+0.100,")
    assert len([line for line in lines if line]) == 3  # not a itself, nor c, which shares no scene with it


def test_differences_whose_interval_holds_zero_are_in_brackets():
    found = [*rows("a", [0.5] * 4), *rows("b", [0.6, 0.4, 0.6, 0.4])]
    assert "| (+0.000 [" in summary(found, "a", ["fidelity"])
    assert "(" not in summary(found, None, ["fidelity"])


def test_a_difference_on_few_scenes_is_in_brackets_whatever_its_interval():
    found = [*rows("a", [0.5] * 6), *rows("b", [0.6] * 5), *rows("c", [0.6] * 6)]
    lines = summary(found, "a", ["fidelity"]).splitlines()
    assert lines[2] == "| b | 5 | (+0.100 [+0.100, +0.100]) |"
    assert lines[3] == "| c | 6 | +0.100 [+0.100, +0.100] |"


def test_an_interval_holds_its_mean_and_is_the_same_each_time():
    mean, low, high = interval([0.0, 1.0, 0.0, 1.0, 1.0])
    assert mean == pytest.approx(0.6)
    assert low < mean < high
    assert (mean, low, high) == interval([0.0, 1.0, 0.0, 1.0, 1.0])


def test_image_is_the_mean_over_together_and_each_alone():
    assert measure_of(rows("a", [0.75]), "two", "a", "image") == {0: pytest.approx((1.0 + 0.75 + 0.5) / 3)}


@pytest.mark.parametrize(
    ("sign", "low", "high", "said"),
    [
        (">", 0.1, 0.2, "holds"),
        (">", -0.1, 0.2, "not significant"),
        (">", -0.2, -0.1, "reversed"),
        ("<", -0.2, -0.1, "holds"),
        ("<", 0.1, 0.2, "reversed"),
        ("=", -0.1, 0.2, "not contradicted"),
        ("=", 0.1, 0.2, "contradicted"),
    ],
)
def test_a_verdict_follows_the_interval(sign, low, high, said):
    assert verdict(sign, low, high, 6) == said


@pytest.mark.parametrize(
    ("sign", "said"), [(">", "not significant"), ("<", "not significant"), ("=", "not contradicted")]
)
def test_few_scenes_bear_no_verdict(sign, said):
    assert verdict(sign, 0.1, 0.2, 5) == said


def test_a_scene_with_several_seeds_counts_once():
    found = [*rows("a", [0.5, 0.5]), *rows("b", [0.6, 0.7]), *rows("b", [0.8, 0.9])]
    assert by_scene(found, "two", "b", "fidelity") == {0: pytest.approx(0.7), 1: pytest.approx(0.8)}
    assert "| b | 2 | (+0.250" in summary(found, "a", ["fidelity"])


def test_what_calibration_is_worth_is_paired_by_scene_and_base(tmp_path):
    for base, gain in (("bundled", 0.0), ("natural", 0.2)):
        file = tmp_path / f"{base}.csv"
        (tmp_path / f"{base}.json").write_text(
            json.dumps({"split": "test"} | ({"base": base} if base == "natural" else {}))
        )
        lines = ["task,scene,arm,calibration,together"]
        for scene in range(6):
            lines += [
                f"two,{scene},disendiff:best-no-calibration,0.0,0.5",
                f"two,{scene},disendiff:best,0.1,{0.5 + gain}",
            ]
        file.write_text("\n".join([*lines, "two,0,dreambooth,,0.9"]) + "\n")
    found = gathered([tmp_path / "bundled.csv", tmp_path / "natural.csv"], "disendiff:best")
    assert "0.500; (+0.000" in table(found, "bundled", "two", "disendiff:best")
    assert "| 0.1 | 6 |  | 0.700; +0.200 [+0.200, +0.200] |" in table(found, "natural", "two", "disendiff:best")


def test_the_short_table_has_the_best_of_each_column_in_bold():
    found = [r | {"recognised": r["fidelity"], "leakage": r["fidelity"]} for r in rows("disendiff", [0.5, 0.7])]
    found += [r | {"recognised": 0.9, "leakage": 0.1} for r in rows("dreambooth", [0.5])]
    lines = short.table(found, ["two"]).splitlines()
    # DreamBooth was run on one of the two scenes, so that one alone is compared.
    assert lines[2:] == ["| DisenDiff | 0.50 |  |  | 0.50 |", "| DreamBooth | **0.90** |  |  | **0.10** |"]
