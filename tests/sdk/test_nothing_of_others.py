"""What belongs to somebody else stays: in outputs, in folders of unfinished work, in reports."""

from __future__ import annotations

import logging

import pytest

from sdk import ConceptPack, FitConfig
from sdk.commands.main import main
from sdk.errors import OutputError
from sdk.fit.kept.checkpoint import read_about


def small(**changes):
    return FitConfig(
        steps=2, batch_size=2, target_pool=2, prior="none", target_share=1.0, checkpoint_every=1
    ).with_changes(**changes)


def test_a_folder_of_the_name_of_unfinished_work(personalizer, picture, tmp_path):
    (tmp_path / "pets.partial").mkdir()
    (tmp_path / "pets.partial" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other files \(notes.txt\)"):
        personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "pets")
    assert (tmp_path / "pets.partial" / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"pets.partial"}


def test_what_is_put_there_during_a_fit(personalizer, picture, tmp_path):
    def put(report):
        (tmp_path / "pets.partial" / "notes.txt").write_text("mine")

    personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "pets", callback=put)
    assert [p.name for p in (tmp_path / "pets.partial").iterdir()] == ["notes.txt"]
    assert ConceptPack.from_pretrained(tmp_path / "pets")


def test_a_pack_that_appears_during_a_fit(personalizer, picture, tmp_path):
    other = personalizer.fit(picture, ["dog"], config=small(steps=1))

    def put(report):
        other.save_pretrained(tmp_path / "pets")

    with pytest.raises(OutputError, match="holds something else by now"):
        personalizer.fit(picture, ["cat"], config=small(), output_dir=tmp_path / "pets", callback=put)
    assert ConceptPack.from_pretrained(tmp_path / "pets").content_hash() == other.content_hash()
    assert read_about(tmp_path / "pets.partial").step == 2  # what was learned is kept


def test_a_finished_pack_is_not_learned_again_for_a_stray_file(personalizer, picture, tmp_path):
    usual = {"config": small(), "output_dir": tmp_path / "pets"}
    pack = personalizer.fit(picture, ["cat"], **usual)
    (tmp_path / "pets.partial").mkdir()
    (tmp_path / "pets.partial" / ".DS_Store").write_text("x")
    ran = []
    again = personalizer.fit(picture, ["cat"], **usual, resume=True, callback=ran.append)
    assert not ran
    assert again.content_hash() == pack.content_hash()


def test_the_step_before_a_callback_that_fails_is_kept(personalizer, picture, tmp_path, caplog):
    def fail(report):
        if report.step == 2:
            raise ConnectionError

    usual = {"config": small(steps=4, checkpoint_every=0), "output_dir": tmp_path / "pets"}
    with pytest.raises(ConnectionError):
        personalizer.fit(picture, ["cat"], **usual, callback=fail)
    assert read_about(tmp_path / "pets.partial").step == 2
    done = []
    with caplog.at_level(logging.WARNING):
        pack = personalizer.fit(picture, ["cat"], **usual, callback=lambda report: done.append(report.step))
    assert "goes on from step 2" in caplog.text
    assert done == [3, 4]
    assert pack.content_hash() == personalizer.fit(picture, ["cat"], config=usual["config"]).content_hash()


def test_an_unfinished_fit_of_something_else_is_never_thrown_away(personalizer, picture, tmp_path):
    def fail(report):
        if report.step == 2:
            raise ConnectionError

    usual = {"config": small(steps=4), "output_dir": tmp_path / "pets"}
    with pytest.raises(ConnectionError):
        personalizer.fit(picture, ["cat"], **usual, callback=fail)
    before = (tmp_path / "pets.partial" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"differs in .*remove .*pets\.partial to start anew"):
        personalizer.fit(picture, ["dog"], **usual)
    assert (tmp_path / "pets.partial" / "checkpoint.safetensors").read_bytes() == before


def test_a_card_that_a_person_wrote(personalizer, picture, tmp_path):
    pack = personalizer.fit(picture, ["cat"], config=small(steps=1), output_dir=tmp_path / "pets")
    (tmp_path / "pets" / "README.md").write_text("my own words")
    (tmp_path / "pets" / "mask-mine.png").write_text("mine")
    pack.save_pretrained(tmp_path / "pets")
    assert (tmp_path / "pets" / "README.md").read_text() == "my own words"
    assert (tmp_path / "pets" / "mask-mine.png").read_text() == "mine"
    (tmp_path / "pets" / "README.md").unlink()
    pack.save_pretrained(tmp_path / "pets")
    assert pack.content_hash() in (tmp_path / "pets" / "README.md").read_text()


def test_a_log_that_is_written_while_a_folder_is_replaced(personalizer, picture, tmp_path):
    pack = personalizer.fit(picture, ["cat"], config=small(steps=1), output_dir=tmp_path / "pets")
    with (tmp_path / "pets" / "log.txt").open("w") as log:
        log.write("one ")
        log.flush()
        pack.save_pretrained(tmp_path / "pets")
        log.write("two")
    assert (tmp_path / "pets" / "log.txt").read_text() == "one two"


def test_reports_and_merges(personalizer, picture, tmp_path, capsys):
    picture.save(tmp_path / "photo.png")
    for name, noun in (("a", "cat"), ("b", "dog")):
        personalizer.fit(picture, [noun], config=small(steps=1), output_dir=tmp_path / name)
    model = ["--model", personalizer.base.name]
    before = ConceptPack.from_pretrained(tmp_path / "a").content_hash()
    merge = ["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "x" / ".." / "a")]
    assert main([*merge, *model]) == 2
    assert "is one of the packs that are merged" in capsys.readouterr().err
    assert ConceptPack.from_pretrained(tmp_path / "a").content_hash() == before
    for name in ("metrics.json", "report.html"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        (folder / name).write_text("mine")
        assert main(["evaluate", str(tmp_path / "a"), "--output", str(folder), *model]) == 2
        assert "holds other files" in capsys.readouterr().err
        assert (folder / name).read_text() == "mine"
