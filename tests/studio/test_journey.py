"""A person's way through the studio, in a real browser on the bundled model."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.serve.running import program

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")]
LONG = 300_000  # milliseconds: a machine may be busy
# The least contrast of the words of what is to be seen with its ground, as WCAG 2.1 defines it; 21 where there is none.
SETTLED = """() => document.getAnimations().forEach(each => {
  if (each instanceof CSSTransition) each.finish();
})"""
CONTRAST = """place => {
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
  const linear = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = numbers(colour).map(value => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const own = getComputedStyle(e).backgroundColor, parts = numbers(own);
      if (parts.length < 4 || parts[3] > 0.99) return own;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = e => {
    const [dark, bright] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const seen = [...document.querySelectorAll(place)].filter(e => e.offsetParent !== null && e.innerText.trim());
  return Math.min(21, ...seen.filter(e => !e.closest('[disabled]')).map(contrast));
}"""
KEPT = os.environ.get("PERSONALIZER_SCREENSHOTS")  # a folder for pictures of the pages


class Visit:
    """A page of the studio, and what went wrong on it."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.outside, self.mistakes = [], []
        page.set_default_timeout(LONG)
        page.on("request", lambda asked: self._look(asked.url))
        page.on("pageerror", lambda error: self.mistakes.append(str(error)))

    def _look(self, url):
        if not url.startswith((self.address, "data:", "blob:")):
            self.outside.append(url)

    def shot(self, name, at="h1"):
        """Keep pictures of a page, from an element down, if they are wanted: those of the manual are made so."""
        if not KEPT:
            return
        for width, height in ((1280, 960), (390, 844)):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(1500)
            self.page.locator(at).first.evaluate(
                "e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 12)"
            )
            self.page.wait_for_timeout(500)
            image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
            image.quantize(160, dither=Image.Dither.NONE).save(Path(KEPT) / f"{name}-{width}.png", optimize=True)
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.page.wait_for_timeout(500)

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def said(self):
        return self.page.locator(".toast-body").all_inner_texts()


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    library = tmp_path_factory.mktemp("journey") / "library"
    with (
        program("studio", library, "--library", str(library), "--no-browser") as (address, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        visit = Visit(page, address)
        page.goto(address)
        expect(visit.button("Learn")).to_be_visible(timeout=LONG)
        yield visit
        browser.close()


def paint(visit, editor, way):
    """A stroke over the middle of an editor, by shares of its side."""
    canvas = visit.page.locator(f"{editor} canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    side = min(box["width"], box["height"])
    mouse = visit.page.mouse
    for index, (right, down) in enumerate(way):
        mouse.move(x + right * side, y + down * side, steps=5)
        if index == 0:
            mouse.down()
    mouse.up()


def test_the_whole_journey(visit):
    page = visit.page
    expect(page.get_by_role("complementary")).to_contain_text("small practice model")
    visit.button("Use the example picture").click()
    expect(page.locator("#crop img")).to_be_visible(timeout=LONG)
    expect(page.locator("#nouns")).to_contain_text("cat")
    visit.shot("studio-photo")
    visit.button("Find where they are").click()
    expect(page.locator("#mask-1 canvas").first).to_be_visible(timeout=LONG)
    expect(page.locator("#mask-0 canvas").first).to_be_visible(timeout=LONG)
    page.wait_for_timeout(2000)  # the picture fades in
    paint(visit, "#mask-0", [(-0.3, 0.3), (-0.2, 0.35), (-0.1, 0.3)])
    visit.shot("studio-masks", "#masks")
    page.locator("#pack-name").get_by_role("textbox").fill("pets")
    page.get_by_role("button", name=re.compile("More settings")).first.click()
    page.get_by_label("Steps; 0: the preset's own").fill("3")
    visit.button("Learn").click()
    expect(page.locator("#samples img").first).to_be_visible(timeout=LONG)
    expect(page.locator("#attention img")).to_be_visible(timeout=LONG)
    visit.shot("studio-learning", "#learn")
    expect(page.locator("#course")).to_contain_text("my cat and my dog", timeout=LONG)

    visit.tab("Draw")
    visit.button("my cat").click()
    visit.button("my dog").click()
    expect(page.get_by_label("What to draw")).to_have_value("my cat and my dog")
    page.get_by_label("number input for How many").fill("2")
    page.get_by_label("Seed; empty: any").fill("5")
    page.get_by_label("Fast").check()
    page.locator("#draw").click()
    expect(page.locator("#drawn img")).to_have_count(2, timeout=LONG)
    visit.shot("studio-draw", "[role=tablist]")

    visit.tab("Gallery")
    page.locator("#gallery button").nth(1).click()  # of seed 5: the newest is first
    expect(page.locator("#about")).to_contain_text("my cat and my dog", timeout=LONG)
    visit.shot("studio-gallery", "[role=tablist]")
    with page.expect_download() as loading:
        page.locator("#download").click()
    with Image.open(loading.value.path()) as image:
        assert image.size == (64, 64)
        assert "my cat" not in image.text["parameters"]
        assert "<new1> cat" in image.text["parameters"]
    visit.button("Change it").click()
    expect(page.locator("#start canvas").first).to_be_visible(timeout=LONG)
    before = page.locator("#drawn img").first.get_attribute("src")
    for _ in range(10):  # an editor takes strokes once it has faded in, and says nothing of that
        page.wait_for_timeout(3000)
        paint(visit, "#start", [(-0.2, 0.2), (0, 0.25), (0.2, 0.2)])
        page.wait_for_timeout(1000)
        page.locator("#draw").click()
        page.wait_for_timeout(3000)
        page.wait_for_function(
            """before => document.querySelector('#drawing').innerText.includes('paint over')
              || document.querySelector('#drawn img').src !== before""",
            arg=before,
            timeout=LONG,
        )
        if page.locator("#drawn img").first.get_attribute("src") != before:
            break
    expect(page.locator("#drawn img").first).not_to_have_attribute("src", before, timeout=1)
    visit.shot("studio-hole", "[role=tablist]")
    page.get_by_label("From words").check()  # without a graphics card, editors keep a browser busy
    visit.tab("Gallery")
    expect(page.locator("#gallery-count")).to_contain_text(re.compile(r"[4-9] pictures"), timeout=LONG)

    visit.tab("Packs")
    expect(page.locator("#pack-list")).to_contain_text("my cat, my dog", timeout=LONG)
    page.get_by_role("button", name=re.compile("Use it in other tools")).click()
    visit.button("Write it").click()
    expect(page.locator("#words")).to_contain_text("<lora:pets:1>", timeout=LONG)
    visit.shot("studio-packs", "[role=tablist]")
    page.get_by_label("Another studio, or this package").check()
    visit.button("Write it").click()
    expect(page.locator("#words")).to_contain_text("another studio takes", timeout=LONG)
    with page.expect_download() as loading:
        page.locator("#export-file").click()
    pack = Path(loading.value.path()).read_bytes()
    assert zipfile.ZipFile(io.BytesIO(pack)).testzip() is None
    page.get_by_role("button", name=re.compile("A pack from somebody else")).click()
    sent = page.locator("#pack-file input[type=file]")
    sent.set_input_files({"name": "../../x.zip", "mimeType": "application/zip", "buffer": pack})
    expect(page.locator("#facts")).to_contain_text("whole", timeout=LONG)
    page.get_by_label("Keep it as").fill("theirs")
    visit.button("Keep it").click()
    expect(page.locator("#pack-list")).to_contain_text("theirs", timeout=LONG)
    page.get_by_role("button", name=re.compile("Is it good")).click()
    visit.button("Measure").click()
    expect(page.locator("#report")).to_contain_text("Drawing", timeout=LONG)
    page.locator("#measure-stop").click()
    expect(page.locator("#report")).to_contain_text("Stopped", timeout=LONG)
    visit.tab("Draw")
    expect(page.get_by_label("Draw with")).to_have_value("theirs", timeout=LONG)
    assert visit.outside == [], "the page loads from elsewhere"
    assert visit.mistakes == []


def test_a_mistake_is_one_sentence(visit):
    page = visit.page
    visit.tab("Draw")
    page.get_by_label("What to draw").fill("a <new7> cat")
    page.get_by_label("From words").check()
    page.locator("#draw").click()
    expect(page.locator("#drawing")).to_contain_text("<new7>, which was not learned", timeout=LONG)
    visit.tab("Packs")
    page.get_by_label("Another name").fill("../pets")
    visit.button("Rename").click()
    expect(page.locator(".toast-body").first).to_contain_text("goes into prompts and file names", timeout=LONG)


def test_what_is_no_photo_is_said_in_one_sentence(visit):
    page = visit.page
    visit.tab("Learn")
    page.locator("#photo").get_by_role("button", name=re.compile("Clear|Remove", re.IGNORECASE)).first.click()
    sent = {"name": "photo.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("#photo input[type=file]").set_input_files(sent)
    expect(page.locator(".toast-body").last).to_contain_text("photo.png", timeout=LONG)
    assert "preprocess" not in "".join(visit.said())


@pytest.mark.parametrize("name", ["Learn", "Draw", "Gallery", "Packs"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_for_everybody(visit, name, width):
    page = visit.page
    page.set_viewport_size({"width": width, "height": 900})
    visit.tab(name)
    expect(page.get_by_role("tabpanel")).to_be_visible(timeout=LONG)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 1, "the page is wider than the screen"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, img, iframe, progress')]
          .filter(e => e.offsetParent !== null && getComputedStyle(e).visibility !== 'hidden')
          .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('title') || e.alt || e.querySelector('img[alt]')
            || e.innerText && e.innerText.trim() || e.labels && e.labels.length || e.getAttribute('aria-labelledby')))
          .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
    tabs = page.locator("[role=tablist]").first.get_by_role("tab")
    assert [text.strip() for text in tabs.all_inner_texts()] == ["Learn", "Draw", "Gallery", "Packs"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
        page.evaluate(SETTLED)  # colours fade into each other
        for place in (".hint", "[role=tab][aria-selected=true]", "button.primary", "label span"):
            assert page.evaluate(CONTRAST, place) >= 4.5, (scheme, place)
    page.evaluate("document.body.classList.remove('dark')")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body"), "the keyboard goes nowhere"
