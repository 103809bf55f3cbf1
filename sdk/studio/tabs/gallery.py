"""The tab of all pictures that were drawn: how each was, two side by side, once more, away."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import gradio as gr

from ...errors import InputError, MissingFileError
from ...library import KeptPicture
from ..telling import notes, text, told
from ..workshop import Workshop

_PAGE = 24  # pictures


class GalleryTab:
    """Builds the tab within a page; other tabs use :attr:`again` and :attr:`change`, and :attr:`chosen`.

    Args:
        shop: what it works with.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self.page, self.ids = gr.State(0), gr.State([])
        self.chosen, self.left, self.doubtful = gr.State(None), gr.State(None), gr.State(None)
        self.count = gr.HTML("", elem_id="gallery-count")
        self.pictures = gr.Gallery(
            show_label=False,
            columns=6,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            format="png",
            buttons=[],
            elem_id="gallery",
        )
        with gr.Row():
            self.newer, self.older = gr.Button("Newer", size="sm"), gr.Button("Older", size="sm")
        with gr.Row(visible=False, equal_height=False) as self.single:
            self.large = gr.Image(
                show_label=False,
                format="png",
                interactive=False,
                height=360,
                buttons=["fullscreen"],
                alt_text="The picture that was chosen",
                elem_id="chosen",
            )
            with gr.Column():
                self.about = gr.HTML("", elem_id="about")
                with gr.Row():
                    self.again = gr.Button("Draw it again", size="sm", elem_id="again")
                    self.change = gr.Button("Change it", size="sm", elem_id="change")
                    self.beside = gr.Button("Compare with the next I choose", size="sm", elem_id="beside")
                with gr.Row():
                    self.download = gr.DownloadButton("Download", size="sm", elem_id="download")
                    self.remove = gr.Button("Delete", size="sm", elem_id="remove")
                    self.really = gr.Button("Really delete it, for good", size="sm", visible=False, variant="stop")
        with gr.Row(visible=False, elem_id="compared") as self.pair:
            self.one = gr.Image(format="png", interactive=False, buttons=[], alt_text="The first of two pictures")
            self.two = gr.Image(format="png", interactive=False, buttons=[], alt_text="The second of two pictures")
        self._connect()

    def _connect(self) -> None:
        listed = self.listed
        self.newer.click(lambda page: self.show(max(0, page - 1)), self.page, listed)
        self.older.click(lambda page: self.show(page + 1), self.page, listed)
        self.pictures.select(told(self.choose), [self.ids, self.left], [*self.shown, *self.compared])
        self.beside.click(told(self.hold), self.chosen, [self.left, self.about])
        self.remove.click(lambda: gr.update(visible=True), None, self.really)
        self.really.click(told(self.away), [self.chosen, self.page], [*listed, *self.shown, *self.compared])

    @property
    def listed(self) -> list[Any]:
        """What :meth:`show` fills."""
        return [self.page, self.ids, self.pictures, self.count, self.newer, self.older]

    @property
    def shown(self) -> list[Any]:
        """What one picture fills."""
        return [self.chosen, self.single, self.large, self.about, self.download, self.really]

    @property
    def compared(self) -> list[Any]:
        """What a second picture fills."""
        return [self.left, self.pair, self.one, self.two]

    def show(self, page: int = 0) -> list[Any]:
        """One page of the gallery, the newest first."""
        total = self.shop.library.pictures.in_gallery()
        pages = max(1, -(-total // _PAGE))
        page = min(page, pages - 1)
        kept = self.shop.library.pictures.gallery(_PAGE, page * _PAGE)
        said = "Nothing was drawn yet." if not total else f"{total} pictures, page {page + 1} of {pages}."
        pictures = [(str(each.path), _caption(each)) for each in kept]
        turns = [gr.update(interactive=page > 0), gr.update(interactive=page + 1 < pages)]
        chosen = gr.update(value=pictures, selected_index=None)
        return [page, [each.id for each in kept], chosen, f"<p class='hint'>{said}</p>", *turns]

    def choose(self, ids: list[str], left: str | None, event: gr.SelectData) -> list[Any]:
        """A picture was chosen: the one to show, or the second of two."""
        kept = self.picture(ids[int(event.index)])
        if left is None or left == kept.id:
            return [*self._one(kept), None, gr.update(visible=False), None, None]
        first = self.picture(left)
        pair = [
            gr.update(value=str(each.path), label=_caption(each), alt_text=_caption(each)) for each in (first, kept)
        ]
        return [*self._one(kept), None, gr.update(visible=True), *pair]

    def _one(self, kept: KeptPicture) -> list[Any]:
        large = gr.update(value=str(kept.path), alt_text=_caption(kept))
        download = gr.update(value=str(kept.path))
        return [kept.id, gr.update(visible=True), large, _words(kept), download, gr.update(visible=False)]

    def hold(self, id: str | None) -> list[Any]:
        """The picture that is shown is the first of two."""
        kept = self.picture(id)
        return [kept.id, notes(["Now choose the other picture above."]) + _words(kept)]

    def away(self, id: str | None, page: int) -> list[Any]:
        """The picture that is shown goes for good."""
        self.shop.library.pictures.remove(self.picture(id).id)
        nothing = [None, gr.update(visible=False), None, "", None, gr.update(visible=False)]
        return [*self.show(page), *nothing, None, gr.update(visible=False), None, None]

    def picture(self, id: str | None) -> KeptPicture:
        """Return a picture that is chosen.

        Raises:
            InputError: none is, or it was deleted meanwhile.
        """
        if id is None:
            raise InputError("choose a picture first")
        try:
            return self.shop.library.pictures.get(id)
        except MissingFileError as error:
            raise InputError("this picture was deleted; choose another") from error


def _caption(kept: KeptPicture) -> str:
    return f"{kept.about.get('prompt', '')}, seed {kept.about.get('seed')}"


def _words(kept: KeptPicture) -> str:
    about = kept.about
    when = datetime.fromtimestamp(kept.created).strftime("%d %B %Y, %H:%M")
    rows = {
        "What was asked for": about.get("prompt"),
        "Drawn with": about.get("pack") or "the model alone",
        "Seed": about.get("seed"),
        "How": about.get("way"),
        "Stay away from": about.get("negative_prompt"),
        "Speed": about.get("speed"),
        "Steps": about.get("steps"),
        "Guidance": about.get("guidance_scale"),
        "Drawn": when,
    }
    lines = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows.items() if value not in (None, "")
    )
    return f"<dl>{lines}</dl>"
