"""How commands talk: no control characters, whatever a file says; and nothing stops because nobody listens."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest
from PIL import Image

from sdk.commands import common
from sdk.commands.main import main
from sdk.errors import InputError, MissingFileError, SdkError
from sdk.printable import printable

HOSTILE = "a\x1b[31mred\x07\r\nnote: forged\u202eback\u2028line\ud800"


def test_what_is_shown_is_one_line_of_letters():
    shown = printable(HOSTILE)
    assert shown == r"a\x1b[31mred\x07  note: forged\u202eback\u2028line\ud800"
    assert shown.isprintable()
    assert printable("Tür 猫 🐈") == "Tür 猫 🐈"
    long = printable("x" * 175_000)
    assert len(long) < 510
    assert " ... " in long
    assert str(SdkError(HOSTILE)) == shown
    assert str(MissingFileError(HOSTILE)) == shown
    assert len(str(InputError("y" * 1_000_000))) < 510


def test_results_notes_and_errors_are_made_printable(capsys, monkeypatch):
    common.say(HOSTILE)
    common.say_aside(HOSTILE)
    common.speak_briefly()
    logging.getLogger("sdk").warning("%s", HOSTILE[:-1])  # whoever reports on tests writes records as UTF-8
    found = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in (found.out + found.err).replace("\r", ""))
    assert "note: a\\x1b" in found.err


def test_a_reader_that_went_away_stops_nothing(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    common.say("one")
    common.say("two")
    assert sys.stdout.name == os.devnull


def test_pictures_are_written_though_nobody_reads(tiny_model, personalizer, picture, quick, tmp_path):
    personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1), output_dir=tmp_path / "p")
    command = [sys.executable, "-m", "sdk.commands.main", "generate", str(tmp_path / "p"), "--prompt", "a <new1> cat"]
    command += ["--output", str(tmp_path / "o"), "--steps", "2", "--num-images", "3", "--model", str(tiny_model)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").iterdir())) == 3


def test_drawing_again_replaces_nothing(tiny_model, personalizer, picture, quick, tmp_path, capsys):
    personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1), output_dir=tmp_path / "p")
    command = ["generate", str(tmp_path / "p"), "--output", str(tmp_path / "o"), "--steps", "2"]
    command += ["--num-images", "2", "--model", str(tiny_model), "--prompt", "a <new1> cat"]
    assert main(command) == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir()}
    assert set(first) == {"00-00.png", "00-01.png"}
    (tmp_path / "o" / "00-03.png").write_text("mine")
    capsys.readouterr()
    assert main([*command, "--prompt", "a dog", "--seed", "5"]) == 0
    now = {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir()}
    assert {name: now[name] for name in first} == first
    assert now["00-03.png"] == b"mine"
    assert set(now) - set(first) == {"00-02.png", "00-03.png", "00-04.png", "01-00.png", "01-01.png"}
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.split()] == [
        "00-02.png", "00-04.png", "01-00.png", "01-01.png",
    ]  # fmt: skip


def test_masks_that_were_edited_stay(tiny_model, picture, tmp_path, capsys):
    picture.save(tmp_path / "photo.png")
    command = ["masks", str(tmp_path / "photo.png"), "--concept", "cat", "--output", str(tmp_path / "m")]
    command += ["--model", str(tiny_model)]
    assert main(command) == 0
    Image.new("L", (4, 4), 7).save(tmp_path / "m" / "mask-new1.png")
    assert main(command) == 0
    assert Image.open(tmp_path / "m" / "mask-new1.png").getpixel((0, 0)) == 7
    assert "mask-new1-2.png" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_two_programs_do_not_share_a_report(personalizer, picture, quick, tmp_path, capsys, command):
    from sdk.disk.folders import exclusive

    picture.save(tmp_path / "photo.png")
    personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(steps=1), output_dir=tmp_path / "p")
    (tmp_path / "o").mkdir()
    arguments = {
        "evaluate": [str(tmp_path / "p")],
        "compare": [str(tmp_path / "photo.png"), "--concept", "cat", "--concept", "dog"],
    }
    with exclusive(tmp_path / "o", "no"):
        assert main([command, *arguments[command], "--output", str(tmp_path / "o")]) == 2
    assert "another program is writing to" in capsys.readouterr().err
    assert not any((tmp_path / "o").iterdir())
