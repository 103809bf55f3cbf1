"""What a program around a call is told, and how it ends the call."""

from __future__ import annotations

import threading

import pytest
import torch

import sdk
from sdk import ConceptPack, FitConfig
from sdk.errors import InputError
from sdk.runtime import Cancelled, Event

DRAWING = {"seed": 1, "num_inference_steps": 4}


def test_a_fit_tells_of_its_phases(personalizer, picture, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "cache"))
    seen: list[Event] = []
    personalizer.fit(picture, ["cat"], config=quick.with_changes(prior_count=3), progress=seen.append)
    assert [(e.phase, e.done, e.total) for e in seen[:4]] == [
        ("priors", 0, 3),
        ("priors", 3, 3),
        ("masks", 0, 4),
        ("masks", 1, 4),
    ]
    fit = [e for e in seen if e.phase == "fit"]
    assert [e.done for e in fit] == [0, 1, 2, 3, 4]
    assert set(fit[1].losses) == {"loss", "denoise", "calibration"}
    assert fit[-1].seconds_left == 0
    assert seen[-1].phase == "fit"
    seen.clear()
    personalizer.fit(picture, ["cat"], config=quick, progress=seen.append, output_dir=tmp_path / "pack")
    assert [(e.done, e.total) for e in seen if e.phase == "sheets"] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_cancelled_fit_goes_on_where_it_stopped(personalizer, picture, tmp_path):
    config = FitConfig(steps=6, batch_size=2, target_pool=2, prior="none", target_share=1.0, checkpoint_every=0)
    whole = personalizer.fit(picture, ["cat"], config=config)
    cancel, steps = threading.Event(), []

    def after(event):
        if event.phase == "fit" and event.losses:
            steps.append(event.done)
            if event.done == 4:
                cancel.set()

    where = {"config": config, "output_dir": tmp_path / "pack"}
    with pytest.raises(Cancelled):
        personalizer.fit(picture, ["cat"], progress=after, cancel=cancel, **where)
    assert steps == [1, 2, 3, 4]
    assert not (tmp_path / "pack").exists()
    resumed = personalizer.fit(picture, ["cat"], progress=after, resume=True, **where)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert resumed.content_hash() == whole.content_hash()


@pytest.mark.parametrize("moment", ["at once", "after the first priors"])
def test_a_fit_that_is_cancelled_before_its_first_step_leaves_nothing_behind(
    personalizer, picture, quick, tmp_path, monkeypatch, moment
):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "cache"))
    cancel, seen = threading.Event(), []

    def first(event):
        seen.append(event.phase)
        if event.done:
            cancel.set()

    if moment == "at once":
        cancel.set()
    config = quick.with_changes(prior_count=40)
    with pytest.raises(Cancelled):
        personalizer.fit(picture, ["cat"], config=config, progress=first, cancel=cancel, output_dir=tmp_path / "out")
    assert seen == ([] if moment == "at once" else ["priors", "priors"])
    assert personalizer.pack is None
    assert {p.name for p in tmp_path.iterdir()} <= {"cache"}


def test_sheets_that_cannot_be_drawn_are_a_note(personalizer, picture, quick, tmp_path, monkeypatch, caplog):
    from sdk.fit.kept import artifacts

    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(artifacts, "samples", broken)
    pack = personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack")
    assert "the pack is whole; not all of its sheets could be made (no ink)" in caplog.text
    assert ConceptPack.from_pretrained(tmp_path / "pack").content_hash() == pack.content_hash()
    assert (tmp_path / "pack" / "attention.png").is_file()
    assert not (tmp_path / "pack" / "samples.png").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"pack"}


def test_the_pack_is_safe_before_its_sheets_are_drawn(personalizer, picture, quick, tmp_path, monkeypatch):
    """An interruption while looking at a pack costs the look, not the pack; resuming draws the sheets."""
    from sdk.fit.kept import artifacts

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "samples", broken)
        with pytest.raises(KeyboardInterrupt):
            personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack")
    first = ConceptPack.from_pretrained(tmp_path / "pack")
    assert not (tmp_path / "pack" / "samples.png").exists()
    written = (tmp_path / "pack" / "personalizer.json").stat().st_mtime_ns
    steps = []
    again = personalizer.fit(
        picture, ["cat"], config=quick, output_dir=tmp_path / "pack", resume=True, callback=steps.append
    )
    assert not steps  # nothing is trained again, and the pack that others may have by now stays as it is
    assert (tmp_path / "pack" / "personalizer.json").stat().st_mtime_ns == written
    assert again.content_hash() == first.content_hash()
    assert (tmp_path / "pack" / "samples.png").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"pack"}


def test_drawing_tells_of_its_steps_and_can_be_cancelled(personalizer, picture):
    calls = (
        ("generate", ("a cat",), 4),
        ("img2img", (picture, "a cat"), 2),
        ("inpaint", (picture, picture, "a cat"), 4),
    )
    for name, arguments, steps in calls:
        draw = getattr(personalizer, name)
        options = DRAWING | ({"strength": 0.5} if name == "img2img" else {})
        seen = []
        result = draw(*arguments, progress=lambda e, seen=seen: seen.append((e.phase, e.done, e.total)), **options)
        assert seen == [("draw", i, steps) for i in range(steps + 1)], name
        assert result.notes == []
        cancel, told = threading.Event(), []

        def stop(event, cancel=cancel, told=told):
            told.append(event.done)
            if event.done:
                cancel.set()

        with pytest.raises(Cancelled):
            draw(*arguments, progress=stop, cancel=cancel, **options)
        assert told == [0, 1]
        assert draw(*arguments, **options).images[0].tobytes() == result.images[0].tobytes()


def test_a_picture_drawn_anew_keeps_the_more_the_weaker(personalizer, picture):
    def distance(strength):
        small = torch.tensor(list(picture.resize((32, 32)).tobytes())).float()
        drawn = personalizer.img2img(picture, "a cat", strength=strength, seed=0, num_inference_steps=8).images[0]
        return (torch.tensor(list(drawn.tobytes())).float() - small).square().mean()

    assert distance(0.125) < distance(0.5) < distance(1.0)
    plain = personalizer.generate("a cat", **DRAWING).images[0]
    assert personalizer.img2img(picture, "a cat", strength=1.0, **DRAWING).images[0].tobytes() == plain.tobytes()
    two = personalizer.img2img(picture, "a cat", num_images=2, strength=0.5, **DRAWING).images
    other = personalizer.img2img(picture, "a cat", strength=0.5, seed=2, num_inference_steps=4).images
    assert two[0].tobytes() != two[1].tobytes() == other[0].tobytes()
    for strength in (0.0, 1.1):
        with pytest.raises(InputError, match="strength must lie"):
            personalizer.img2img(picture, "a cat", strength=strength)


def test_a_bar_shows_every_phase(capsys):
    with sdk.progress() as bar:
        for event in (Event("priors", 2, 4), Event("priors", 4, 4), Event("fit", 1, 3, {"loss": 0.25}, 2.0)):
            bar(event)
    shown = capsys.readouterr().err
    assert "priors" in shown
    assert "4/4" in shown
    assert "loss=0.250" in shown


def test_looking_for_masks_trains_nothing(personalizer, picture, monkeypatch):
    """No learner, no copies of weights: a base model and a probe are enough."""
    from sdk.methods import base

    def refused(*_):
        raise AssertionError("a trainable copy was made")

    monkeypatch.setattr(base, "_trainable", refused)
    masks = personalizer.find_masks(picture, ["cat", "dog"])
    assert [mask.size for mask in masks] == [picture.size] * 2


def test_loading_drawing_and_exporting_say_nothing(shared_export):
    """No banner, bar or warning of another library, for a program that never asked for quiet."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    assert (shared_export.parent / "said.txt").read_text() == ""


def test_a_picture_of_another_world_is_said_to_be_one(personalizer, picture, quick, caplog):
    from PIL import Image

    personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(steps=1))
    assert "the judge sees no" not in caplog.text
    personalizer.fit(Image.effect_noise((64, 64), 60), ["cat", "dog"], config=quick.with_changes(steps=1))
    assert "the judge sees no cat in the reference picture" in caplog.text
    assert "the judge sees no dog in the reference picture" in caplog.text
