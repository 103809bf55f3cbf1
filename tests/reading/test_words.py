"""What users and files say in words: concepts, prompts, settings, names of files, tables."""

from __future__ import annotations

import random
import string

import pytest

from sdk import Concept, FitConfig
from sdk.concepts import check_prompt, resolve_concepts
from sdk.disk.checked import Table, shown
from sdk.disk.file_names import check_name, is_inner_path, is_plain_name, kept_name, mask_name, token_file_name
from sdk.disk.reading import read_json, read_toml
from sdk.errors import InputError, MissingFileError
from sdk.plain import from_plain
from tests.reading.mutations import OTHERS, changed_table, read_or_refused


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ("cat", r"write \['cat'\]"),
        ("cat, dog", r"write \['cat', 'dog'\]"),
        (["cat,dog"], r"\['cat', 'dog'\] or --concept cat --concept dog"),
        (["teddy bear, dog"], "--concept 'teddy bear' --concept dog"),
        ([5], "got 5"),
        ([None], "got None"),
        ([b"cat"], "got b'cat'"),
        ({"cat": "<new1>"}, "got a table|got {'cat'"),
        (Concept("cat"), "list, also of one"),
        (5, "got 5"),
        ([], "at least one concept"),
        (["cat"] * 9, "at most 8"),
        ([" \n"], "empty class"),
        (["cat\x1b[31m"], "do not show"),
        (["ca‮t"], "do not show"),
        (["cat\ud800"], "do not show"),
        (["c" * 65], "longer than 64"),
        ([Concept(5)], "got 5"),
        ([Concept("cat", 5)], "the token 5"),
        ([Concept("cat", "<../../evil>")], "angle brackets"),
        ([Concept("cat", "<" + "a" * 63 + ">")], "at most 64"),
        ([Concept("cat", "<NEW2>"), "dog"], "capital letters aside"),
        (["<new1> cat"], "holds a token"),
    ],
)
def test_concepts_that_are_none(concepts, message):
    with pytest.raises(InputError, match=message):
        resolve_concepts(concepts)


def test_concepts_of_any_sequence():
    want = [Concept("cat", "<new1>"), Concept("Bär", "<new2>")]
    for given in (("cat", "Bär"), (noun for noun in ("cat", "Bär")), ["cat", Concept("Bär")]):
        assert resolve_concepts(given) == want


def test_endless_concepts_end():
    from itertools import repeat

    with pytest.raises(InputError, match="at most 8"):
        resolve_concepts(repeat("cat"))


@pytest.mark.parametrize(
    ("prompt", "message"), [(5, "must be text"), (" ", "is empty"), ("a" * 10_001, "at most"), ("\ud800", "Unicode")]
)
def test_prompts_that_are_none(prompt, message):
    with pytest.raises(InputError, match=message):
        check_prompt(prompt)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prior_prompts": [5]}, "entry of prior_prompts must be of type str"),
        ({"prior_prompts": [["a"]]}, "entry of prior_prompts"),
        ({"steps": 10**30}, "steps must be a finite number"),
        ({"steps": 10**5000}, "steps must be a finite number"),
        ({"learning_rate": 10**400}, "learning_rate must be a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"masks": {"power": {"power": {}}}}, "masks.power must be of type int"),
        ({"masks": [{}]}, "is a group of settings"),
        ({"steps": "7"}, "steps must be of type int"),
    ],
)
def test_settings_of_other_types(values, message):
    for make in (FitConfig.from_dict, lambda v: FitConfig(**v)):
        with pytest.raises(InputError, match=message):
            make(values)


def test_changed_settings():
    rng = random.Random(0)
    plain = FitConfig.preset("best").to_dict()
    refused = 0
    for _ in range(300):
        values = changed_table(plain, rng)
        refused += read_or_refused(lambda: FitConfig.from_dict(values)) is None  # noqa: B023
        refused += read_or_refused(lambda: from_plain(FitConfig, rng.choice(OTHERS))) is None
    assert refused > 300


def test_toml(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbfsteps = 3\n")
    assert read_toml(file) == {"steps": 3}
    for text in (
        b"a = " + b"[" * 5000,
        b"a = ",
        b"a = 1\na = 2",
        b"a = " + b"9" * 5000,
        b"\xff",
        b"a." * 3000 + b"a = 1",
    ):
        file.write_bytes(text)
        with pytest.raises(InputError):
            read_toml(file)
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="more than the"):
        read_toml(file)
    with pytest.raises(MissingFileError, match="path of the configuration"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", '"\\ud800"', '{"\\ud800": 1}', "[" * 45 + "]" * 45])
def test_json_that_is_more_than_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        read_json(tmp_path / "a.json")


def test_tables():
    def fail(reason):
        return InputError(reason)

    table = Table({"a": {"b": [1, 2.5], "c": 10**400, "d": True, "e": "x\ny"}, "f": 3}, fail)
    assert table.table("a").numbers("b", 2, 0, 3) == (1.0, 2.5)
    assert table.whole("f", 3, 3) == 3
    for ask, message in (
        (lambda: table.table("a").number("c", 0, 1e300), "a.c must be a number"),
        (lambda: table.table("a").whole("d", 0, 5), "a.d must be a whole number from 0 to 5, got True"),
        (lambda: table.table("a").numbers("b", 3, 0, 3), "a list of 3 numbers"),
        (lambda: table.table("a").numbers("b", 2, 0, 2), "a number from 0 to 2, got 2.5"),
        (lambda: table.table("a").text("e"), "plain characters"),
        (lambda: table.whole("f", 4, 9), "from 4 to 9, got 3"),
        (lambda: table.table("f"), "f is no table"),
        (lambda: table.text("g"), "g is missing"),
        (lambda: table.names(1), "2 entries, more than 1"),
        (lambda: Table([], fail), "no table"),
    ):
        with pytest.raises(InputError, match=message):
            ask()


def test_what_is_shown_is_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (*OTHERS, deep, 10**9999, object()):
        assert len(shown(value)) <= 200
        assert shown(value).isprintable()
    while deep:  # Python would take it apart by recursion
        deep = deep.pop()


def test_names_of_files():
    assert [token_file_name(0), mask_name(7)] == ["new1.safetensors", "mask-new8.png"]
    assert kept_name("my pets/1") == "my-pets-1"
    assert kept_name("../../evil") == "evil"
    assert kept_name("猫") == "pack"
    assert kept_name("nul") == "pack-nul"
    assert kept_name("a" * 300) == "a" * 64
    assert check_name("my-pets_1") == "my-pets_1"
    for name in ("my pets", "", "a/b", "COM1", "a" * 65, None, "-", "a\n"):
        with pytest.raises(InputError, match="letters, digits"):
            check_name(name)
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(string.printable + "é\0/\\:.<>") for _ in range(rng.randrange(100)))
        assert is_plain_name(kept_name(text) + ".png"), text
        assert check_name(kept_name(text))


@pytest.mark.parametrize(
    ("name", "plain", "inner"),
    [
        ("a.json", True, True),
        ("unet/model.onnx", False, True),
        *((name, False, False) for name in ("../a", "/a", "a/../b", "a\\b", "C:a", "con.txt", "", ".", "..", "a//b")),
        *((name, False, False) for name in ("a\0", "a/", "é", " a", "x" * 200, ".hidden", 5, None, "a\n")),
    ],
)
def test_names_that_files_state(name, plain, inner):
    assert (is_plain_name(name), is_inner_path(name)) == (plain, inner)
