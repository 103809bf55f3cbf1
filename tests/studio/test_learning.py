"""The tab to learn on, without a browser."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")

import gradio as gr

from sdk import Personalizer
from sdk.concepts import MAX_CONCEPTS
from sdk.errors import InputError
from sdk.studio.tabs.learning import LearnTab
from sdk.studio.telling import told

SETTINGS = ("textual_inversion", "best", 4, 3, "", "")  # method, preset, steps, seed, licence, consent
LOOK = ("job", "looked", "done", "words", "stop", "on", "forget")


@pytest.fixture
def tab(shop):
    with gr.Blocks():
        yield LearnTab(shop)


def asked(tab, crop, nouns=("cat", "dog"), name="pets", masked="", settings=SETTINGS, edited=()):
    return tab.ask(crop, list(nouns), name, masked, *settings, *edited)[0]


def watched(tab, id, until):
    """Looks at a fit until one of them is enough."""
    end = time.monotonic() + 120
    looked, seen = (0, -1), []
    while time.monotonic() < end:
        found = dict(
            zip(("job", "looked", "done", "words", "stop", "on", "forget"), tab.look(id, looked, 0), strict=False)
        )
        seen.append(found)
        looked = found["looked"]
        if until(found):
            return seen
        time.sleep(0.05)
    raise AssertionError(seen[-1])


def test_a_photo_is_cut_and_masks_are_of_that_very_cut(tab, tmp_path, picture):
    Image.new("RGB", (90, 60), "blue").save(tmp_path / "photo.png")
    photo, across, down, share, cropping, shown, crop, ready, masking = tab.take(str(tmp_path / "photo.png"))
    assert (photo.size, crop.size, ready) == ((90, 60), (60, 60), "")
    assert (across, down, share) == (50, 50, 100)
    assert cropping["visible"]
    assert not masking["visible"]
    assert shown.size == (450, 300)
    assert tab.centre(photo, 50, SimpleNamespace(index=[0, 0])) == [0, 0]
    assert tab.cut(photo, 0, 0, 50)[1].size == (30, 30)
    assert tab.take(None)[0] is None
    assert tab.cut(None, 50, 50, 100)[0] is None


def test_what_is_no_picture_is_refused(tab, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"<script>")
    with pytest.raises(gr.Error, match="photo.png"):
        told(tab.take)(str(tmp_path / "photo.png"))


def test_words_are_checked_against_the_model(tab):
    assert tab.check([])[0] == tab.check(["cat"])[0] == ""
    assert "zebra" in tab.check(["cat", "zebra"])[0]
    assert "<img " not in tab.check(["zebra <img src=x>"])[0]
    with pytest.raises(InputError, match="empty class"):
        tab.check(["  "])


def test_masks_are_proposed_painted_and_used(tab, picture):
    found = tab.propose(picture, ["cat", "dog"], progress=lambda share, desc: None)
    key = found[2]
    editors = found[3:]
    assert len(editors) == MAX_CONCEPTS
    assert [e["visible"] for e in editors] == [True, True, *[False] * (MAX_CONCEPTS - 2)]
    assert [e["label"] for e in editors[:2]] == ["cat", "dog"]
    left, right = (Image.new("RGBA", (512, 512)) for _ in range(2))
    left.paste((255, 0, 0, 200), (0, 0, 256, 512))
    right.paste((255, 0, 0, 200), (256, 0, 512, 512))
    id = asked(tab, picture, masked=key, edited=[{"layers": [left]}, {"layers": [right]}, *[None] * 6])
    job = tab.shop.library.jobs.get(id)
    assert job.asked["masks"] == 2
    with (
        Image.open(job.folder / "mask-new1.png")
        if (job.folder / "mask-new1.png").exists()
        else Image.open(sorted(job.folder.glob("mask*.png"))[0]) as mask
    ):
        assert np.asarray(mask.convert("L")).mean(0).argmin() >= 32
    with pytest.raises(InputError, match="the mask of dog is empty"):
        asked(tab, picture, name="more", masked=key, edited=[{"layers": [left]}, {"layers": []}])
    with pytest.raises(InputError, match="another square or of other words"):
        asked(tab, picture, ["dog", "cat"], "more", key, edited=[{"layers": [left]}, {"layers": [right]}])
    with pytest.raises(InputError, match="there is a pack pets already, or one is being learned"):
        asked(tab, picture)
    assert asked(tab, picture, name="") != asked(tab, picture, name="")
    names = [job.asked["name"] for job in tab.shop.library.jobs.all()]
    assert len(set(names)) == 3


def test_nothing_is_learned_without_photo_words_or_a_free_name(tab, picture):
    with pytest.raises(InputError, match="photo"):
        asked(tab, None)
    with pytest.raises(InputError, match="what is in the photo"):
        asked(tab, picture, nouns=())
    with pytest.raises(InputError, match="goes into prompts"):
        asked(tab, picture, name="../pets")
    with pytest.raises(InputError, match="there is no method"):
        asked(tab, picture, settings=("nothing", *SETTINGS[1:]))
    assert tab.shop.library.jobs.all() == []


def test_a_fit_is_followed_to_its_end(tab, picture, tiny_model):
    id = asked(tab, picture, name="", settings=("textual_inversion", "best", 6, 3, "CC0", ""))
    seen = watched(tab, id, lambda found: found["done"] == 1)
    assert any("Learning" in each["words"] and "progress" in each["words"] for each in seen)
    assert any(each["looked"][1] > 0 for each in seen), "no samples were drawn"
    assert "my cat and my dog" in seen[-1]["words"]
    assert not seen[-1]["stop"]["visible"]
    assert seen[-1]["forget"]["visible"]
    kept = tab.shop.library.packs.get("my-cat-dog")
    assert kept.about["licence"] == "CC0"
    alone = Personalizer.from_pretrained(tiny_model, device="cpu")
    config = alone.default_config(method="textual_inversion", steps=6)
    same = alone.fit(picture, ["cat", "dog"], method="textual_inversion", config=config, seed=3, licence="CC0")
    assert tab.shop.read("my-cat-dog").content_hash() == same.content_hash(), "looking changed what is learned"
    assert tab.shop.free_name("my-cat-dog") == "my-cat-dog-2"
    tab.away(id)
    assert tab.look(id, (0, -1), 0)[0] is None


def test_a_fit_is_stopped_and_goes_on(tab, picture):
    id = asked(tab, picture, settings=("textual_inversion", "best", 400, 3, "", ""))
    watched(tab, id, lambda found: "Learning" in found["words"])
    tab.halt(id)
    (*_, last) = watched(tab, id, lambda found: "Stopped" in found["words"])
    assert last["on"]["visible"]
    tab.halt(id)  # once more: nothing is lost
    assert tab.shop.library.jobs.get(id).folder.exists()
    end = time.monotonic() + 60
    while True:
        try:
            tab.again(id)
            break
        except InputError:  # it is still ending
            assert time.monotonic() < end
            time.sleep(0.05)
    watched(tab, id, lambda found: "Learning" in found["words"])
    with pytest.raises(InputError, match="stop it first"):
        tab.away(id)
    tab.halt(id)
    watched(tab, id, lambda found: "Stopped" in found["words"])
