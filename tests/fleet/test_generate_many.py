"""Many pictures: each is there once, whatever was interrupted."""

from __future__ import annotations

import csv
import shutil
import threading

import fsspec
import numpy as np
import pytest
from PIL import Image

from sdk import ConceptPack, Personalizer
from sdk.commands.main import main
from sdk.errors import InputError
from sdk.fleet import Drawing, generate_many
from sdk.fleet.drawings import generate
from sdk.runtime import Cancelled

STEPS = 2


@pytest.fixture(scope="module")
def packs(two_packs):
    """Return the folders of two packs."""
    place, names = two_packs
    return [str(place / "packs" / name) for name in names]


@pytest.fixture
def rows(packs):
    """Return seven rows of two packs and none, the last one wrong."""
    made = [Drawing(prompt="photo of a <new1> cat", pack=packs[n % 2], seed=n) for n in range(4)]
    made += [Drawing(prompt="photo of a dog", seed=9), Drawing(prompt="photo of a <new1> cat", seed=1, name="no pack")]
    return [*made, {"prompt": "photo of a cat", "pack": "nowhere"}]


def test_rows_of_different_packs_are_drawn_once(rows, packs, tiny_model, tmp_path):
    usual = {"model": tiny_model, "device": "cpu", "num_inference_steps": STEPS}
    result = generate_many(rows, tmp_path / "out", **usual)
    assert [each.status for each in result.outcomes] == ["done"] * 5 + ["failed"] * 2
    assert "<new1>" in result.failed[0].reason
    assert "nowhere" in result.failed[1].reason
    assert result.drawn == 6
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    for each in result.outcomes[:5]:
        pack = ConceptPack.from_pretrained(each.pack) if each.pack else None
        (picture,) = alone.generate(each.prompt, concepts=pack, seed=each.seed, num_inference_steps=STEPS).images
        with Image.open(tmp_path / "out" / each.picture) as drawn:
            assert np.abs(np.asarray(drawn, int) - np.asarray(picture, int)).max() <= 2
    again = generate_many(rows, tmp_path / "out", **usual)
    assert again.drawn == 1  # what failed is tried again
    with (tmp_path / "out/pictures.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == [each.status for each in result.outcomes]
    assert generate_many(rows, tmp_path / "out", **usual | {"num_inference_steps": 3}).drawn == 6


def test_it_goes_on_from_an_interruption(rows, tiny_model, tmp_path):
    cancel = threading.Event()
    many = [*rows[:4], *(Drawing(prompt="photo of a dog", seed=seed) for seed in range(20))]
    usual = {"model": tiny_model, "device": "cpu", "num_inference_steps": STEPS}
    with pytest.raises(Cancelled):
        generate_many(
            many, tmp_path / "out", **usual, cancel=cancel, progress=lambda event: event.done and cancel.set()
        )
    there = {each.name for each in (tmp_path / "out/pictures").iterdir()}
    assert 0 < len(there) < len(many)
    result = generate_many(many, tmp_path / "out", **usual)
    assert result.drawn == len(many) - len(there)
    assert len(list((tmp_path / "out/pictures").iterdir())) == len(many)


def test_a_pack_that_changes_meanwhile_is_no_picture_of_the_other(packs, tiny_model, tmp_path, monkeypatch):
    shutil.copytree(packs[0], tmp_path / "pack")
    marked = generate.pack_mark

    def then_changed(pack):
        mark = marked(pack)
        shutil.rmtree(tmp_path / "pack")
        shutil.copytree(packs[1], tmp_path / "pack")
        return mark

    monkeypatch.setattr(generate, "pack_mark", then_changed)
    row = Drawing(prompt="a <new1> cat", pack=str(tmp_path / "pack"))
    result = generate_many([row], tmp_path / "out", model=tiny_model, device="cpu", num_inference_steps=STEPS)
    assert "changed while" in result.outcomes[0].reason
    assert not list((tmp_path / "out").glob("pictures/*"))


def test_packs_and_pictures_may_be_at_addresses(packs, tiny_model, tmp_path):
    files = fsspec.filesystem("memory")
    try:
        files.put(packs[0] + "/", "/many/pack/", recursive=True)
        usual = {"model": tiny_model, "device": "cpu", "num_inference_steps": STEPS}
        far = generate_many([Drawing(prompt="a <new1> cat", pack="memory://many/pack")], "memory://many/out", **usual)
        near = generate_many([Drawing(prompt="a <new1> cat", pack=packs[0])], tmp_path / "out", **usual)
        assert far.outcomes[0].id == near.outcomes[0].id
        picture = near.outcomes[0].picture
        assert files.cat(f"/many/out/{picture}") == (tmp_path / "out" / picture).read_bytes()
    finally:
        files.rm("/many", recursive=True)


def test_what_holds_for_all_rows_is_said_once(tiny_model, tmp_path):
    rows = [Drawing(prompt="a cat")]
    wrongs = [{"width": 13}, {"speed": "slow"}, {"scheduler": "none"}, {"workers": 2}, {"engine": "none"}]
    for wrong in [*wrongs, {"gpus": 1.5}, {"cpus": 0}]:
        with pytest.raises(InputError):
            generate_many(rows, tmp_path / "out", model=tiny_model, device="cpu", **wrong)


def test_ray_draws_the_same_rows(rows, packs, tiny_model, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'personalizer-sdk[ray]'")
    usual = {"model": tiny_model, "device": "cpu", "num_inference_steps": STEPS, "threads": 1}
    here = generate_many(rows, tmp_path / "here", **usual)
    there = generate_many(rows, tmp_path / "there", **usual, engine="ray", workers=1)
    assert there.outcomes == here.outcomes
    assert there.drawn == 6
    assert len(list((tmp_path / "there/pictures").iterdir())) == 5
    for each in here.outcomes[:5]:
        pictures = [np.asarray(Image.open(tmp_path / name / each.picture), int) for name in ("here", "there")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_the_command_draws_a_table(packs, tiny_model, tmp_path, capsys):
    shutil.copytree(packs[0], tmp_path / "pack")
    (tmp_path / "rows.csv").write_text("prompt,pack,seed\na <new1> cat,pack,3\n,pack,1\n")
    arguments = ["generate-many", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(tiny_model), "--device", "cpu", "--steps", "2"]) == 2
    said = capsys.readouterr()
    assert "1 of 2 drawn" in said.out
    assert "no prompt" in said.out
    assert "1 of 2 pictures failed" in said.err
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1
