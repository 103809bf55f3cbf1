"""Folders that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from sdk.disk import folders
from sdk.disk.files import check_space, prepare_output_folder, write_bytes, write_next
from sdk.disk.folders import exclusive, new_folder
from sdk.errors import OutputError

NAME = "about.json"


def write(folder, text, *extra, manifest=NAME, scratch=None):
    with new_folder(folder, scratch, manifest=manifest) as work:
        for name in ("data", *extra):
            (work / name).write_text(text)
        (work / NAME).write_text(json.dumps({"files": dict.fromkeys(("data", *extra), "")}))


def content(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


def test_a_folder_appears_whole_and_an_earlier_one_is_exchanged(tmp_path):
    write(tmp_path / "a", "one", "old")
    inode = (tmp_path / "a").stat().st_ino
    write(tmp_path / "a", "two")
    assert content(tmp_path / "a")["data"] == "two"
    assert "old" not in content(tmp_path / "a")  # it belonged to the old one
    assert (tmp_path / "a").stat().st_ino != inode
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_files_of_others_stay(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    target = tmp_path / "a"
    with new_folder(target, manifest=NAME) as work:
        (work / NAME).write_text("{}")
        target.mkdir()
        (target / "thesis.txt").write_text("mine")  # it appears while ours is made
    assert content(target) == {NAME: "{}", "thesis.txt": "mine"}
    (target / "deep").mkdir()
    (target / "deep" / "more.txt").write_text("mine too")
    write(target, "two")
    assert content(target)["thesis.txt"] == "mine"
    assert (target / "deep" / "more.txt").read_text() == "mine too"
    assert content(target)["data"] == "two"
    (target / "unlisted").write_text("mine")
    with pytest.raises(OutputError, match="unlisted"):
        write(target, "three", "unlisted")
    assert content(target)["data"] == "two"
    assert content(target)["unlisted"] == "mine"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_and_the_working_directory_are_filled(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real")["data"] == "one"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    inode = here.stat().st_ino
    for text in ("one", "two"):
        write(folders.Path("."), text)
        assert content(here)["data"] == text
        assert here.stat().st_ino == inode
    assert set(os.listdir(here)) == {"data", NAME}
    assert set(os.listdir(tmp_path)) == {"real", "link", "here"}


def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    write(tmp_path / "a", "one")
    with pytest.raises(TypeError), new_folder(tmp_path / "a", manifest=NAME) as work:
        (work / "data").write_text(2)
    with pytest.raises(FileNotFoundError) as caught, new_folder(tmp_path / "a", manifest=NAME):
        os.stat("/nowhere/input")
    assert not isinstance(caught.value, OutputError)  # an input that is missing is no output that cannot be written
    assert content(tmp_path / "a")["data"] == "one"
    assert os.listdir(tmp_path) == ["a"]


KILLED = """
import os, sys
from pathlib import Path
from sdk.disk import folders

place, moment = sys.argv[2], int(sys.argv[3])
calls = 0
def watched(name):
    real = getattr(os, name)
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == moment:
            os._exit(9)
        return real(*arguments, **keywords)
    setattr(os, name, call)
for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
    watched(name)
if place == "here":
    os.chdir(sys.argv[1])
if place == "two renamings":
    folders._exchanged = lambda *_: False
with folders.new_folder(Path("." if place == "here" else sys.argv[1]), manifest="about.json") as work:
    for name in ("data", "more", "new"):
        (work / name).write_text("two")
    (work / "about.json").write_text('{"files": {"data": 0, "more": 0, "new": 0}}')
"""


@pytest.mark.parametrize("place", ["exchange", "two renamings", "here"])
@pytest.mark.parametrize("before", [False, True])
def test_killed_at_every_call_of_the_system(tmp_path, place, before):
    """The old or the new one, and the next call leaves no trace of the killed one."""
    target = tmp_path / "a"
    for moment in range(1, 60):
        if before:
            write(target, "one", "more")
        elif place == "here":
            target.mkdir()
        program = [sys.executable, "-c", textwrap.dedent(KILLED), str(target), place, str(moment)]
        done = subprocess.run(program).returncode
        found = content(target) if target.exists() else {}
        if NAME in found:
            names, text = (("data", "more"), "one") if "new" not in found else (("data", "more", "new"), "two")
            assert {found[name] for name in names} == {text}, moment
        elif place == "exchange":
            assert not before, moment  # never without either
        write(target, "three")
        assert content(target) == {"data": "three", NAME: content(target)[NAME]}, moment
        assert os.listdir(tmp_path) == ["a"], moment
        for name in os.listdir(target):
            (target / name).unlink()
        target.rmdir()
        if done == 0:
            break
    assert done == 0
    assert moment > 2


def test_a_replacement_that_died_between_two_renamings_is_taken_back(tmp_path):
    target = tmp_path / "a"
    write(target, "one")
    target.rename(tmp_path / f"{folders._prefix(target)}0123.old")
    with pytest.raises(KeyError), new_folder(target, manifest=NAME):
        raise KeyError
    assert content(target)["data"] == "one"


def test_what_another_call_uses_is_not_removed(tmp_path):
    with new_folder(tmp_path / "a", manifest=NAME) as first:
        (first / "data").write_text("one")
        (first / NAME).write_text("{}")
        write(tmp_path / "a", "two")
        assert (first / "data").read_text() == "one"
    assert content(tmp_path / "a")["data"] == "one"


def test_one_at_a_time(tmp_path):
    with exclusive(tmp_path, "taken"):
        with pytest.raises(OutputError, match="taken"), exclusive(tmp_path, "taken"):
            pass
        program = (
            f"import pathlib, sdk.disk.folders as f\nwith f.exclusive(pathlib.Path({str(tmp_path)!r}), 'taken'): pass"
        )
        other = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
        assert "taken" in other.stderr
    with exclusive(tmp_path, "taken"):
        pass


def test_files_are_whole_and_nothing_is_replaced_by_the_next_one(tmp_path):
    write_bytes(tmp_path / "f", b"one")
    write_bytes(tmp_path / "f", b"t")
    assert (tmp_path / "f").read_bytes() == b"t"
    (tmp_path / "01.png").write_bytes(b"mine")
    found = [write_next(tmp_path, lambda n: f"{n:02d}.png", b"x", 1) for _ in range(2)]
    assert [(p.name, n) for p, n in found] == [("02.png", 2), ("03.png", 3)]
    assert (tmp_path / "01.png").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["01.png", "02.png", "03.png", "f"]


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    kill = "import os, sys\nos.replace = lambda *_: os._exit(9)\n"
    kill += f"import pathlib, sdk.disk.files as f\nf.write_bytes(pathlib.Path({str(tmp_path / 'f')!r}), b'a' * 100)"
    assert subprocess.run([sys.executable, "-c", kill]).returncode == 9
    assert len(os.listdir(tmp_path)) == 1
    write_bytes(tmp_path / "f", b"b")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"b"


@pytest.mark.parametrize("path", ["", "a\0b", 5, b"a", "\ud800", "x" * 300, "~nobody-of-this-name/a"])
def test_paths_that_cannot_be(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        prepare_output_folder(path)
    assert not os.listdir(tmp_path)


def test_room_is_asked_for(tmp_path):
    check_space(tmp_path, 1000)
    with pytest.raises(OSError, match=r"No space|too large"):
        check_space(tmp_path, 1 << 60)
    assert not os.listdir(tmp_path)
