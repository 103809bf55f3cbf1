"""Tables of jobs: what a row may say, and what becomes of one that is wrong."""

from __future__ import annotations

import json

import pytest

from sdk.errors import InputError
from sdk.fleet import Job, read_jobs
from sdk.fleet.jobs import job_id
from sdk.fleet.tables import Refused

ROWS = [
    {"image": "a.png", "concepts": ["cat", "dog"], "settings": {"steps": 3}, "seed": 7, "name": "first"},
    {"image": "b.png", "concepts": ["cat"], "masks": ["m.png"], "method": "custom_diffusion", "preset": "reference"},
]
CSV = """image,concepts,masks,method,preset,settings,seed,name
a.png,cat; dog,,,,"{""steps"": 3}",7,first
b.png,cat,m.png,custom_diffusion,reference,,,
"""


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_table_says_the_same(kind, tmp_path):
    file = tmp_path / f"jobs.{kind}"
    if kind == "csv":
        file.write_text(CSV)
    elif kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        texts = [row | {"settings": json.dumps(row["settings"])} if "settings" in row else row for row in ROWS]
        parquet.write_table(pyarrow.Table.from_pylist(texts, schema=None), file)
    first, second = read_jobs(file)
    assert isinstance(first, Job)
    assert (first.image, tuple(first.concepts), first.seed) == (tmp_path / "a.png", ("cat", "dog"), 7)
    assert (first.settings, first.shown, first.method, first.preset) == ({"steps": 3}, "first", "disendiff", "best")
    if kind != "parquet":  # which has columns of the first row's alone
        assert (second.method, second.preset, second.shown) == ("custom_diffusion", "reference", "b.png")
        assert second.masks == (tmp_path / "m.png",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"concepts": ["cat"]}, "the row has no image"),
        ({"image": "a.png"}, "the row has no concepts"),
        ({"image": "a.png", "concepts": "cat;"}, "concept"),
        ({"image": "a.png", "concepts": ["cat"], "seed": "seven"}, "seed must be a whole number"),
        ({"image": "a.png", "concepts": ["cat"], "seed": -1}, "seed must be between 0"),
        ({"image": "a.png", "concepts": ["cat"], "settings": '{"steps": NaN}'}, "NaN is no number"),
        ({"image": "a.png", "concepts": ["cat"], "settings": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"image": "a.png", "concepts": ["cat"], "settings": {"stepps": 3}}, "there is no setting 'stepps'"),
        ({"image": "a.png", "concepts": ["cat"], "settings": [1]}, "settings must be a table"),
        ({"image": "a.png", "concepts": ["cat"], "method": "magic"}, "magic"),
        ({"image": "a.png", "concepts": ["cat"], "imgae": 1}, "there is no column 'imgae'"),
        ({"image": "a\0.png", "concepts": ["cat"]}, "image"),
        ("a.png", "a row is a table of values"),
    ],
)
def test_a_row_that_is_wrong_says_why_and_the_others_are_read(row, reason):
    good = {"image": "a.png", "concepts": ["cat"], "name": "fine"}
    found = read_jobs([good, row, good])
    assert [isinstance(each, Job) for each in found] == [True, False, True]
    assert isinstance(found[1], Refused)
    assert reason in found[1].reason
    assert "\n" not in found[1].reason
    assert found[1].name.startswith("row 2")


def test_a_line_that_is_no_json_is_a_row_that_is_wrong(tmp_path):
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"image": "a.png", "concepts": ["cat"]}\n{"image": \n[1]\n')
    first, second, third = read_jobs(file)
    assert isinstance(first, Job)
    assert isinstance(second, Refused)
    assert "line 2" in second.reason
    assert isinstance(third, Refused)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("jobs.csv", b"image,concept\na,b\n", "has a column 'concept'"),
        ("jobs.csv", b"image,seed\na,1\n", "has no column concepts"),
        ("jobs.csv", b"\xff\xfe\x00", "no CSV in UTF-8"),
        ("jobs.xlsx", b"PK", "is no table"),
    ],
)
def test_a_table_whose_columns_are_wrong_is_refused_whole(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_jobs(tmp_path / name)


def test_an_id_changes_with_whatever_changes_the_result(picture, tmp_path):
    for name, changed in (("a.png", picture), ("same.png", picture), ("other.png", picture.rotate(90))):
        changed.save(tmp_path / name)
    base = {"unet": "1"}
    usual = {"image": tmp_path / "a.png", "concepts": ["cat", "dog"]}
    known = job_id(Job(**usual), base)
    assert job_id(Job(**usual | {"image": tmp_path / "same.png", "name": "called otherwise"}), base) == known
    others = [
        {"image": tmp_path / "other.png"},
        {"concepts": ["dog", "cat"]},
        {"masks": [tmp_path / "a.png", tmp_path / "other.png"]},
        {"method": "custom_diffusion"},
        {"preset": "paper"},
        {"settings": {"steps": 3}},
        {"seed": 1},
    ]
    ids = [job_id(Job(**usual | change), base) for change in others] + [job_id(Job(**usual), {"unet": "2"})]
    assert len({known, *ids}) == len(others) + 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"masks": 5}, "masks must be a list of paths"),
        ({"settings": {"name": "x"}}, "there is no setting 'name'"),
        ({"settings": {"method": "x"}}, "there is no setting 'method'"),
        ({"settings": {1: 2}}, "settings must be a table"),
        ({"seed": 10**30}, "seed must be between"),
        ({"preset": 3}, "preset"),
    ],
)
def test_values_of_another_type_are_refused_in_a_sentence(change, reason):
    (found,) = read_jobs([{"image": "a.png", "concepts": ["cat"]} | change])
    assert isinstance(found, Refused)
    assert reason in found.reason


def test_a_name_is_printable_wherever_it_goes():
    named = {"image": "a.png", "concepts": ["cat"], "name": "a\x1b[31m\nb"}
    not_utf8 = {"image": "caf\udce9.png", "concepts": ["cat"]}  # as the system gives such a file's name
    for job in read_jobs([named, not_utf8]):
        assert isinstance(job, Job)
        assert "\x1b" not in job.shown
        assert "\n" not in job.shown
        job.shown.encode()
