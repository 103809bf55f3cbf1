"""The tab of packs, without a browser."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

import gradio as gr

from sdk.errors import InputError, PackError
from sdk.runtime import Phase
from sdk.studio.exporting import FORMATS_OF_PEOPLE
from sdk.studio.tabs.packs import PacksTab
from sdk.studio.telling import told

PAGE = SimpleNamespace(session_hash="a page")
ANOTHER = SimpleNamespace(session_hash="another page")


@pytest.fixture
def tab(shop, tmp_path):
    with gr.Blocks():
        yield PacksTab(shop, tmp_path)


def quietly(share, desc):
    """In the place of Gradio's bar."""


def test_names_away_and_back(tab, packs, shop):
    tab.renamed("pets", "animals")
    assert shop.names() == ["animals", "others"]
    with pytest.raises(InputError, match="there is a pack others already"):
        tab.renamed("animals", "others")
    _, id, undo, said = tab.away("animals")
    assert undo["visible"]
    assert shop.names() == ["others"]
    tab.back(id)
    assert shop.names() == ["animals", "others"]
    tab.away("animals")
    tab.away("others")
    assert [name.split(",")[0] for name, _ in tab.show(None)[3]["choices"]] == ["others", "animals"]
    for _, each in tab.show(None)[3]["choices"]:
        tab.back(each)
    listed, chosen, several, _ = tab.show("gone")
    assert "my cat, my dog" in listed
    assert chosen["value"] == "animals"
    assert several["choices"] == ["animals", "others"]
    with pytest.raises(InputError, match="choose a pack"):
        tab.away(None)


def test_two_become_one(tab, packs, shop):
    tab.combined(packs, "all", progress=quietly)
    assert len(shop.read("all").concepts) == 4
    assert "my first cat" in tab.show("all")[0]
    with pytest.raises(InputError, match="two packs or more"):
        tab.combined(["pets"], "more", progress=quietly)
    with pytest.raises(InputError, match="there is a pack all already"):
        tab.combined(packs, "all", progress=quietly)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS_OF_PEOPLE if "ONNX" not in kind])
def test_packs_for_other_tools(tab, packs, kind):
    words, file = tab.written("pets", kind, progress=quietly)
    with zipfile.ZipFile(file["value"]) as opened:
        assert opened.testzip() is None
        assert len(opened.namelist()) >= 2
    assert "/tmp" not in words
    if "ComfyUI" in kind:
        assert "embedding:pets-new1 cat" in words
        assert "&lt;lora:pets:1&gt;" in words


def test_a_pack_travels_to_another_studio(tab, packs, shop):
    _, file = tab.written("pets", list(FORMATS_OF_PEOPLE)[-1], progress=quietly)
    sent, facts, name, keep = tab.received(file["value"])
    assert "my cat, my dog" in facts
    assert keep["visible"]
    assert name["value"] == "cat-dog"
    tab.kept(sent, "theirs")
    assert shop.read("theirs").content_hash() == shop.read("pets").content_hash()
    with pytest.raises(InputError, match="there is a pack theirs already"):
        tab.kept(sent, "theirs")
    with pytest.raises(InputError, match="goes into prompts"):
        tab.kept(sent, "../theirs")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"<html>"])
def test_what_is_no_pack_is_refused_in_a_sentence(tab, shop, tmp_path, content):
    (tmp_path / "pack.zip").write_bytes(content)
    with pytest.raises(PackError, match="zip"):
        tab.received(str(tmp_path / "pack.zip"))
    with pytest.raises(gr.Error):
        told(tab.received)(str(tmp_path / "pack.zip"))
    assert shop.names() == []
    assert [each.name for each in Path(shop.library.uploads).iterdir()] == []


def test_a_report_may_do_nothing(tab, packs, shop, monkeypatch):
    page = '<script>alert(1)</script>" onload="alert(2)'
    monkeypatch.setattr("sdk.eval.evaluation.evaluate", lambda *given, **named: None)
    monkeypatch.setattr("sdk.eval.report.render_page", lambda report: page)
    shown = tab.measured("pets", PAGE, progress=quietly)
    assert "<iframe sandbox " in shown
    assert "<script" not in shown
    assert shown.count('"') == 4


def test_measuring_is_stopped_by_its_own_page(tab, packs, monkeypatch):
    done = []

    def evaluate(model, pack, num_images, progress, cancel):
        phase = Phase("draw", 5, progress, cancel)
        for _ in range(5):
            phase.step()
            done.append(pack)
            tab.halt(PAGE if len(done) == 3 else ANOTHER)

    monkeypatch.setattr("sdk.eval.evaluation.evaluate", evaluate)
    assert "Stopped" in tab.measured("pets", PAGE, progress=quietly)
    assert len(done) == 3
    tab.halt(PAGE)  # nothing is measured any more
    tab.begin(PAGE)
    tab.halt(PAGE)  # before its turn comes
    assert "Stopped" in tab.measured("pets", PAGE, progress=quietly)
    assert len(done) == 3
