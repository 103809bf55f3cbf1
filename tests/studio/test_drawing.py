"""The tabs to draw on and to look at pictures, without a browser."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")

import gradio as gr

from sdk.errors import InputError
from sdk.images.record import read_record
from sdk.studio.tabs.drawing import CHANGE, HOLE, WORDS, DrawTab
from sdk.studio.tabs.gallery import GalleryTab

PAGE = SimpleNamespace(session_hash="a page")


@pytest.fixture
def tab(shop):
    with gr.Blocks():
        yield DrawTab(shop)


@pytest.fixture
def gallery(shop):
    with gr.Blocks():
        yield GalleryTab(shop)


def drawn(tab, text="my cat", pack="1", way=WORDS, start=None, count=2, seed="7", speed="exact", size="", steps=2):
    return list(tab.drawing(text, pack, way, start, 0.5, count, seed, speed, "", size, steps, 0, PAGE))


def red_picture(hole=False):
    layer = Image.new("RGBA", (32, 32))
    if hole:
        layer.paste((255, 0, 0, 200), (0, 0, 16, 32))
    return {"background": Image.new("RGB", (32, 32), "red"), "layers": [layer], "composite": None}


def test_names_become_phrases_and_all_is_kept(tab, packs, shop):
    events = drawn(tab, "my cat near My Dog")
    assert "progress" in events[0][0]
    assert "gallery" in events[-1][0]
    kept = shop.library.pictures.gallery(10)
    assert [each.about["seed"] for each in kept] == [8, 7]
    assert [each.about["prompt"] for each in kept] == ["my cat near My Dog"] * 2
    assert read_record(kept[0].path).prompt == "a <new1> cat near a <new2> dog"
    assert [str(each.path) for each in reversed(kept)] == [path for path, _ in events[-1][1]]
    prompt = "a <new1> cat near a <new2> dog"
    want = shop.model.generate(prompt, concepts=shop.read("pets"), seed=7, num_inference_steps=2)
    with Image.open(kept[-1].path) as image:
        assert np.abs(np.asarray(image, int) - np.asarray(want.images[0], int)).max() <= 1


def test_the_server_never_forgets_the_gallery(tab, packs, shop):
    drawn(tab, count=1)
    other = shop.library.pictures.put(shop.library.pictures.gallery(1)[0].path.read_bytes(), {})
    assert shop.library.pictures.forget(before=other.created + 1e6) == 1
    assert shop.library.pictures.in_gallery() == 1


def test_a_picture_is_changed_and_a_hole_filled(tab, packs, shop):
    drawn(tab, way=CHANGE, start=red_picture(), count=1)
    drawn(tab, way=HOLE, start=red_picture(hole=True), count=1)
    hole, changed = shop.library.pictures.gallery(2)
    with Image.open(hole.path) as image:
        assert image.convert("RGB").getpixel((30, 5)) == (255, 0, 0)
        assert image.convert("RGB").getpixel((3, 5)) != (255, 0, 0)
    assert read_record(changed.path).edited
    assert changed.about["strength"] == 0.5


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"text": "  "}, "write what to draw"),
        ({"text": "a <new9> cat"}, "not learned"),
        ({"way": HOLE}, "give the picture"),
        ({"way": HOLE, "start": red_picture()}, "paint over"),
        ({"seed": "many"}, "a seed is a whole number"),
        ({"seed": "9" * 20}, "seed"),
        ({"count": 99}, "1 to 16"),
        ({"pack": "99"}, "was deleted"),
    ],
)
def test_what_cannot_be_drawn_says_so_and_nothing_is_kept(tab, packs, shop, asked, said):
    state, pictures, _ = drawn(tab, **asked)[-1]
    assert 'class="problem"' in state
    assert re.search(said, state)
    assert shop.library.pictures.in_gallery() == 0
    assert tab._orders == {}


def test_stopping(tab, packs, shop, monkeypatch):
    begun, draw = threading.Event(), shop.painter.draw

    def slowly(rows, how, progress, cancel):
        def told(event):
            progress(event)
            begun.set()
            time.sleep(0.05)

        return draw(rows, how, told, cancel)

    monkeypatch.setattr(shop.painter, "draw", slowly)
    events = tab.drawing("my cat", "1", WORDS, None, 0.5, 1, "1", "exact", "", "", 150, 0, PAGE)
    next(events)
    assert begun.wait(60)
    tab.halt(PAGE)
    assert "Stopped" in list(events)[-1][0]
    assert shop.library.pictures.in_gallery() == 0


def test_chips_and_packs_on_offer(tab, packs, shop):
    assert [chip.get("value") for chip in tab.chosen("1")[:3]] == ["my cat", "my dog", None]
    assert not any(chip["visible"] for chip in tab.chosen(""))
    shop.library.packs.rename("pets", "animals")
    assert tab.offered("1")["value"] == "1"
    assert ("animals", "1") in tab.offered("1")["choices"]
    assert tab.offered("9")["value"] == tab.newest()["value"] == "2"
    shop.library.packs.remove("animals")
    assert "1" not in [value for _, value in tab.offered(None)["choices"]]


def test_the_gallery_shows_compares_repeats_and_deletes(tab, gallery, packs, shop):
    drawn(tab, "my cat", count=2)
    page, ids, pictures, count, *_ = gallery.show(5)
    assert (page, len(ids)) == (0, 2)
    assert "2 pictures, page 1 of 1" in count
    assert "my cat, seed 8" in pictures["value"][0][1]
    first = gallery.choose(ids, None, SimpleNamespace(index=0))
    assert first[0] == ids[0]
    assert not first[7]["visible"]
    left, _ = gallery.hold(ids[0])
    both = gallery.choose(ids, left, SimpleNamespace(index=1))
    assert both[7]["visible"]
    assert [each["alt_text"] for each in both[8:]] == ["my cat, seed 8", "my cat, seed 7"]
    prompt, pack, way, seed, *_ = tab.again(gallery.picture(ids[0]))
    assert (prompt, pack["value"], way, seed) == ("my cat", "1", WORDS, "8")
    shop.library.packs.remove("pets")
    with pytest.raises(InputError, match="pack pets was deleted"):
        tab.again(gallery.picture(ids[0]))
    assert tab.start_from(gallery.picture(ids[0]))[0]["value"] == HOLE
    assert gallery.away(ids[0], 0)[-4:-2] == [None, {"visible": False, "__type__": "update"}]
    assert gallery.show()[1] == ids[1:]
    with pytest.raises(InputError, match="was deleted"):
        gallery.picture(ids[0])


def test_foreign_words_are_text(tab, gallery, packs, shop):
    drawn(tab, "my cat <img src=x onerror=alert(1)>", count=1)
    ids = gallery.show()[1]
    words = gallery.choose(ids, None, SimpleNamespace(index=0))[3]
    assert "<img" not in words
    assert "&lt;img" in words
