"""The benchmarks of a GPU go through everything on a CPU, and their tables and goals say what the rows say."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import MEASURES, main
from benchmarks.gpu.flops import fit_row_flops, picture_flops, unet_flops
from benchmarks.gpu.goals import GOALS, Goal
from benchmarks.gpu.models import configuration
from benchmarks.gpu.rows import FIELDS, Row, append, compared, machine, read
from benchmarks.gpu.table import document, goals, results
from benchmarks.gpu.timing import in_turns

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
# What a CPU does not have, and nothing else, may be left out of a dry run.
LEFT_OUT = ("needs CUDA", "xformers", "does not wait for the compiler")
DRAWN = [f"a picture, 2 at once, {speed}" for speed in ("exact", "balanced", "fast")]


@pytest.fixture(scope="module")
def dry(tiny_model, shared_export, tmp_path_factory):
    """The rows of a dry run, its file, and what it printed; of the exported folders the one that is there."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "shared").symlink_to(shared_export)
    file = folder / "gpu.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONALIZER_CACHE", str(folder / "cache"))
        given = ["--dry-run", "--csv", file, "--model", tiny_model, "--exports", folder, "--kinds", "shared"]
        rows = main([str(each) for each in given])
    return rows, file


def test_every_figure_of_a_dry_run_is_a_number(dry):
    rows, _ = dry
    for row in rows:
        reasons = any(reason in row.note for reason in LEFT_OUT)
        missing = row.value is None or (row.peer and row.peer_value is None)
        # Of memory in a dry run one budget is too small for Stable Diffusion 2, which must say so.
        assert not missing or reasons or "a fit needs" in row.note, row
        for figure in (row.value, row.peer_value, row.mfu, row.ratio):
            assert figure is None or (math.isfinite(figure) and figure > 0), row
        if row.value is not None and row.peer_value is not None:
            assert row.ratio == row.peer_value / row.value


@pytest.mark.parametrize(
    ("section", "whats", "peers"),
    [
        (
            "F",
            ["a step", "250 steps, warm", "250 steps, cold", "the first step, cold", "the first step, warm"],
            ["accelerate=eager, reference kernels", "Custom Diffusion's loop", "Custom Diffusion's loop, compiled"],
        ),
        ("G", DRAWN, ["diffusers", "diffusers, channels last", "diffusers, compiled, channels last", "exact"]),
        ("O", ["shared"], ["ONNX Runtime, CPU"]),
        ("M", ["2 packs in one batch"], ["rows of one pack", "a batch a pack", "diffusers, a batch a pack"]),
        (
            "memory",
            [f"{family}, {what}" for family in ("sd1", "sd2", "sdxl") for what in ("1 row", "a step of drawing")],
            ["predicted", "memory="],
        ),
    ],
)
def test_a_dry_run_measures_all_of_every_section(dry, section, whats, peers):
    rows = [row for row in dry[0] if row.section == section]
    assert set(whats) <= {row.what for row in rows if row.value is not None}
    assert set(peers) <= {row.peer for row in rows if row.ratio is not None}


def test_sections_are_those_of_the_tables(dry):
    assert {row.section for row in dry[0]} == set(MEASURES)
    text = results(dry[0])
    assert all(row.what in text and row.note in text for row in dry[0])


def test_memory_chooses_fewer_rows_for_larger_models(dry):
    notes = {row.what: row.note for row in dry[0] if row.section == "memory" and row.peer == "memory="}
    assert notes["sd1, memory=0.738"].startswith("2 of 2 rows")
    assert notes["sdxl, memory=0.738"].startswith("1 of 2 rows")
    assert "a fit needs" in notes["sd2, memory=0.738"]


def test_the_file_of_a_run_is_read_back(dry):
    rows, file = dry
    with file.open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert len(lines) == len(rows)
    assert tuple(lines[0]) == FIELDS
    ((about, again),) = read(file).items()
    assert about == tuple(machine(CPU).values())
    assert {row.key: row for row in again} == {row.key: row for row in rows}
    assert f"torch {torch.__version__}" in document(read(file))


def test_later_rows_take_the_place_of_earlier_ones(tmp_path):
    file = tmp_path / "gpu.csv"
    for value in (2.0, 1.0):
        append(file, machine(CPU), [Row("F", "a step", value)])
    assert list(read(file).values()) == [[Row("F", "a step", 1.0)]]


def test_goals_are_met_missed_or_not_measured():
    least, most = Goal("A", "F", "a step", "peer", 2.0), Goal("B", "F", "a step", "", 1.0)
    assert least.verdict(Row("F", "a step", 1.0, peer="peer", peer_value=2.0)) == "met"
    assert least.verdict(Row("F", "a step", 1.0, peer="peer", peer_value=1.9)) == "missed"
    assert least.verdict(Row("F", "a step", 1.0, peer="peer", note="not there")) == "not measured"
    assert most.verdict(Row("F", "a step", 1.0)) == "met"
    assert most.verdict(Row("F", "a step", 1.1)) == "missed"
    assert most.verdict(None) == "not measured"
    first = GOALS[0]
    met = goals([Row(first.section, first.what, first.bound / 2)]).splitlines()
    assert met[2].endswith(f"| {first.bound / 2:.3g} | at most {first.bound:g} | met |")
    assert all("not measured" in line for line in met[3:])


def test_a_row_of_ours_and_one_for_each_peer():
    rows = list(compared("G", "x", {"we": 1.0, "they": 3.0}, "we", {"others": "not installed"}))
    assert [(row.peer, row.ratio, row.note) for row in rows] == [
        ("", None, "we"),
        ("they", 3.0, ""),
        ("others", None, "not installed"),
    ]
    assert list(compared("G", "x", {"they": 3.0}, "we", {"we": "too large"})) == [Row("G", "x", None, note="too large")]


def test_calls_take_turns_and_one_that_fails_leaves_the_others():
    order: list[str] = []

    def fails():
        raise RuntimeError("no room\nat all")

    calls = {"a": lambda: order.append("a"), "b": fails, "c": lambda: order.append("c")}
    medians, first, failed = in_turns(calls, CPU, 2)
    assert order == ["a", "c"] * 3
    assert set(medians) == set(first) == {"a", "c"}
    assert failed == {"b": "no room"}


def test_operations_are_those_of_stable_diffusion():
    """Counted with explicit attention; published figures of 0.677 TFLOP leave its two products out."""
    parts = configuration("sd1", tiny=False)
    unet = unet_flops(parts)
    assert unet == pytest.approx(0.80327e12, rel=1e-4)
    assert fit_row_flops(parts) == pytest.approx(1.6987e12, rel=1e-3)
    assert picture_flops(parts, 50) == pytest.approx(100 * unet + 2.5145e12, rel=1e-4)


def test_without_a_gpu_only_a_dry_run_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "no GPU here" in capsys.readouterr().err
    for wrong in (["--only", "X"], ["--kinds", "both"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            main(["--dry-run", *wrong])


def test_the_documentation_shows_the_results():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    shown = page.partition("--table -->\n")[2].strip()
    assert shown == document(read(ROOT / "benchmarks" / "results" / "gpu.csv")).strip()


@pytest.mark.slow
def test_folders_are_exported_where_there_are_none(tmp_path):
    rows = main(["--dry-run", "--only", "O", "--exports", str(tmp_path)])
    measured = {row.what for row in rows if row.ratio is not None}
    assert {"merged", "shared"} <= measured
    assert (tmp_path / "merged").is_dir()
