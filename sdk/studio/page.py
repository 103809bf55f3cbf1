"""The page: four tabs, and what one tells the others."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from .tabs.drawing import DrawTab
from .tabs.gallery import GalleryTab
from .tabs.learning import LearnTab
from .tabs.packs import PacksTab
from .telling import text, told
from .workshop import Workshop

TITLE = "Personalizer Studio"
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_DAY = 24 * 3600  # seconds


def look() -> dict[str, Any]:
    """Return theme and style; fonts are those of the machine, so nothing is loaded from elsewhere."""
    theme = gr.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", font=_FONT, font_mono=["ui-monospace", "monospace"]
    ).set(  # darker words than Gradio's: contrasts of 4.5 and more, as WCAG 2.1 AA asks for
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_title_text_color="*primary_700",
        block_label_text_color="*primary_700",
        color_accent="*primary_600",
        checkbox_label_background_fill_selected="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
    return {"theme": theme, "css": files(__package__).joinpath("style.css").read_text(encoding="utf-8")}


def build_page(shop: Workshop, scratch: Path) -> gr.Blocks:
    """Return the page.

    Args:
        shop: what it works with.
        scratch: a folder for files that are downloaded.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_DAY // 24, _DAY)) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p class='hint'>Teach a model several things from one picture.</p>")
        gr.HTML(_banner(shop))
        with gr.Tabs() as tabs:
            with gr.Tab("Learn", id="learn-tab"):
                learn = LearnTab(shop)
            with gr.Tab("Draw", id="draw-tab"):
                draw = DrawTab(shop)
            with gr.Tab("Gallery", id="gallery-tab") as shown:
                gallery = GalleryTab(shop)
            with gr.Tab("Packs", id="packs-tab"):
                packs = PacksTab(shop, scratch)
        quietly: dict[str, Any] = {"show_progress": "hidden"}
        for changed, offered, given in (
            (learn.done.change, draw.newest, None),
            (packs.made.change, draw.newest, None),
            (packs.done.change, draw.offered, draw.pack),
            (page.load, draw.offered, draw.pack),
        ):
            changed(offered, given, draw.pack, **quietly).then(draw.chosen, draw.pack, draw.chips, **quietly)
            changed(packs.show, packs.pack, packs.listed, **quietly)
        for changed in (draw.done.change, page.load, shown.select):
            changed(gallery.show, None, gallery.listed, show_progress="hidden")

        def once_more(id: str | None) -> list[Any]:
            return [*draw.again(gallery.picture(id)), gr.update(selected="draw-tab")]

        def from_it(id: str | None) -> list[Any]:
            return [*draw.start_from(gallery.picture(id)), gr.update(selected="draw-tab")]

        gallery.again.click(told(once_more), gallery.chosen, [*draw.repeated, tabs])
        started = [draw.way, draw.start, draw.starting, draw.strength]
        gallery.change.click(told(from_it), gallery.chosen, [*started, tabs])
    return page


def _banner(shop: Workshop) -> str:
    """What the bundled model is for; nothing of any other."""
    base = shop.model.base.name
    if not shop.nouns:
        return f"<p class='hint'>Model: {text(base)}</p>"
    known = ", ".join(shop.nouns)
    return (
        '<aside class="note" aria-label="About this model"><p><strong>This is the small practice model.</strong> It '
        f"draws pictures of {shop.model.resolution} × {shop.model.resolution} pixels of a world of its own, in which "
        f"there are: {text(known)}. Photographs are beyond it. To learn from your own photo, start the studio with a "
        "real model: <code>personalizer studio --model stable-diffusion-v1-5/stable-diffusion-v1-5</code>, or a folder "
        "or a file that holds one.</p></aside>"
    )
