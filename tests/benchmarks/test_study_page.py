"""The pages say what the rows of the study say, and which rates tuning chose."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study.page import PAGES, renewed
from benchmarks.study.rates import table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_page_is_what_its_command_prints(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = Path(page).read_text(encoding="utf-8")
    assert "<!-- python -m benchmarks.study." in before
    assert renewed(before) == before, "python -m benchmarks.study.page writes the tables anew"


def test_a_table_is_replaced_and_what_stands_around_it_is_not(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("task,scene,arm,together\ntwo,0,a,0.25\ntwo,1,a,0.25\ntwo,0,b,1\n")
    comment = f"<!-- python -m benchmarks.study.summary {rows} --arms a --measures together -->"
    page = renewed(f"Before.\n\n{comment}\n\n| old |\n|---|\n| 1 |\n\nAfter.\n\n| kept |\n|---|\n")
    wanted = "| 2 concepts | scenes | together |\n|---|---|---|\n| a | 2 | 0.25 [0.25, 0.25] |"
    assert page == f"Before.\n\n{comment}\n\n{wanted}\n\nAfter.\n\n| kept |\n|---|\n"


def test_the_highest_sum_chooses_and_of_equal_ones_the_own_rates():
    def row(arm, alone, together):
        return {"task": "two", "scene": 0, "arm": arm, "recognised": alone, "together": together}

    rows = [row("a rates x 1", 0.5, 0.25), row("a rates x 2", 0.25, 0.5), row("a rates x 0.3", 0.25, 0.5)]
    rows += [row("b rates x 1", 0.5, 0.25), row("b rates x 2", 0.5, 0.5), row("b rates x 0.3", 0.5, 0.5)]
    assert table(rows).splitlines() == [
        "| recognised alone, together | 0.3 of the rates | 1 of the rates | 2 of the rates | chosen |",
        "|---|---|---|---|---|",
        "| a | 0.25, 0.50 | 0.50, 0.25 | 0.25, 0.50 | 1 |",
        "| b | 0.50, 0.50 | 0.50, 0.25 | 0.50, 0.50 | 0.3 |",
    ]
