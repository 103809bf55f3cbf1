"""The tab of what was learned: names, away and back, together, measured, for other tools, from others."""

from __future__ import annotations

import html
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from ...disk.file_names import kept_name
from ...errors import InputError
from ...library import KeptPack
from ...runtime import Cancelled
from ..exporting import FORMATS_OF_PEOPLE, exported, facts_of
from ..telling import notes, text, told
from ..words import names_of
from ..workshop import Workshop, concepts_of


class PacksTab:
    """Builds the tab within a page; :attr:`done` changes when there are others, :attr:`made` when there is a new one.

    Args:
        shop: what it works with.
        scratch: a folder for files that are downloaded, from which the page may serve.
    """

    def __init__(self, shop: Workshop, scratch: Path) -> None:
        self.shop, self.scratch = shop, scratch
        self._measuring: dict[str | None, threading.Event] = {}  # of each open page
        self.done, self.made = gr.State(0), gr.State(0)
        self.removed, self.sent = gr.State(None), gr.State(None)
        self.list = gr.HTML("", elem_id="pack-list")
        self.pack = gr.Dropdown([], label="Pack", elem_id="pack")
        with gr.Row(equal_height=True):
            self.new = gr.Textbox("", label="Another name", max_length=64, elem_id="new-name")
            self.rename = gr.Button("Rename", elem_id="rename")
            self.remove = gr.Button("Delete", elem_id="delete-pack")
            self.undo = gr.Button("Undo: bring it back", visible=False, elem_id="undo")
        self.said = gr.HTML("", elem_id="packs-said")
        with gr.Accordion("Use it in other tools", open=False, elem_id="exporting"):
            self.format = gr.Radio(list(FORMATS_OF_PEOPLE), value=next(iter(FORMATS_OF_PEOPLE)), label="For")
            self.export = gr.Button("Write it", elem_id="export")
            self.words = gr.HTML("", elem_id="words")
            self.file = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="export-file")
        with gr.Accordion("Is it good?", open=False):
            gr.HTML(
                "<p class='hint'>Draws each thing alone and all together, and measures how well they are met and "
                "whether they leak into each other.</p>"
            )
            with gr.Row():
                self.measure = gr.Button("Measure", elem_id="measure")
                self.stop = gr.Button("Stop", elem_id="measure-stop")
            self.report = gr.HTML("", elem_id="report")
        with gr.Accordion("Put packs together", open=False):
            self.several = gr.Dropdown([], value=[], multiselect=True, label="Packs", elem_id="several")
            self.together = gr.Textbox("", label="Name of the new one", max_length=64, elem_id="together-name")
            self.combine = gr.Button("Put together", elem_id="combine")
        with gr.Accordion("Deleted lately", open=False):
            self.gone = gr.Dropdown([], label="Deleted or replaced", elem_id="gone")
            self.bring = gr.Button("Bring it back", elem_id="bring")
        with gr.Accordion("A pack from somebody else", open=False):
            self.upload = gr.File(label="Its zip file", file_types=[".zip"], type="filepath", elem_id="pack-file")
            self.facts = gr.HTML("", elem_id="facts")
            self.as_name = gr.Textbox("", label="Keep it as", max_length=64, visible=False, elem_id="as-name")
            self.keep = gr.Button("Keep it", visible=False, elem_id="keep")
        self._connect()

    def _connect(self) -> None:
        self.rename.click(told(self.renamed), [self.pack, self.new], [self.done, self.pack, self.new, self.said])
        self.remove.click(told(self.away), self.pack, [self.done, self.removed, self.undo, self.said])
        self.undo.click(told(self.back), self.removed, [self.done, self.undo, self.said])
        self.bring.click(told(self.back), self.gone, [self.done, self.undo, self.said])
        self.export.click(
            told(self.written), [self.pack, self.format], [self.words, self.file], show_progress_on=self.words
        )
        # Begun at once: whoever stops may still wait in the line.
        begun = self.measure.click(self.begin, None, None, queue=False, show_progress="hidden")
        begun.then(told(self.measured), self.pack, self.report)
        self.stop.click(self.halt, None, None, show_progress="hidden")
        self.combine.click(told(self.combined), [self.several, self.together], [self.made, self.together, self.said])
        received = [self.sent, self.facts, self.as_name, self.keep]
        self.upload.upload(told(self.received), self.upload, received)
        self.upload.clear(lambda: [None, "", gr.update(visible=False), gr.update(visible=False)], None, received)
        self.keep.click(told(self.kept), [self.sent, self.as_name], [self.made, *received, self.upload, self.said])

    @property
    def listed(self) -> list[Any]:
        """What :meth:`show` fills."""
        return [self.list, self.pack, self.several, self.gone]

    def show(self, current: str | None) -> list[Any]:
        """The packs that there are."""
        packs = self.shop.library.packs.all()
        names = [kept.name for kept in packs]
        chosen = current if current in names else (names[0] if names else None)
        several = gr.update(choices=names, value=[])
        gone = [(f"{kept.name}, {_day(kept)}", kept.id) for kept in self.shop.library.packs.removed()]
        back = gr.update(choices=gone, value=gone[0][1] if gone else None)
        return [_table(packs), gr.update(choices=names, value=chosen), several, back]

    def renamed(self, name: str | None, new: str) -> list[Any]:
        """A pack gets another name."""
        kept = self.shop.library.packs.rename(_chosen(name), new.strip())
        names = self.shop.names()
        return [time.time(), gr.update(choices=names, value=kept.name), "", notes([f"{name} is {kept.name} now."])]

    def away(self, name: str | None) -> list[Any]:
        """A pack goes, and can come back for a week."""
        kept = self.shop.library.packs.remove(_chosen(name))
        self.shop.packs.forget(kept.id)
        said = notes([f"{name} is deleted. It can be brought back now, and its files stay for a week."])
        return [time.time(), kept.id, gr.update(visible=True), said]

    def back(self, id: int | None) -> list[Any]:
        """The pack that went last comes back."""
        if id is None:
            raise InputError("nothing was deleted")
        kept = self.shop.library.packs.restore(id)
        return [time.time(), gr.update(visible=False), notes([f"{kept.name} is back."])]

    def written(self, name: str | None, kind: str, progress: Any = gr.Progress()) -> list[Any]:
        """A pack in another tool's format, and what to type there."""
        progress((0, 1), desc="Writing")
        words, file = exported(self.shop, _chosen(name), kind, self.scratch)
        return [words, gr.update(value=str(file), visible=True)]

    def begin(self, request: gr.Request) -> None:
        """Measuring was asked for, and can be stopped from now on."""
        stop = self._measuring.get(request.session_hash)
        if stop is None or stop.is_set():
            self._measuring[request.session_hash] = threading.Event()

    def measured(self, name: str | None, request: gr.Request, progress: Any = gr.Progress()) -> str:
        """A report on a pack, in a frame of its own that may do nothing."""
        from ...eval.evaluation import evaluate
        from ...eval.report import render_page

        stop = self._measuring.setdefault(request.session_hash, threading.Event())

        def shown(event: Any) -> None:
            progress((event.done, event.total), desc="Drawing" if event.phase == "draw" else "Measuring")
            if self.shop.stopping.is_set():
                stop.set()

        try:
            pack = self.shop.read(_chosen(name))
            report = evaluate(self.shop.model, pack, num_images=2, progress=shown, cancel=stop)
        except Cancelled:
            return notes(["Stopped."])
        finally:
            if self._measuring.get(request.session_hash) is stop:
                del self._measuring[request.session_hash]
        page = html.escape(render_page(report), quote=True)
        return f'<iframe sandbox title="Report on {text(name)}" srcdoc="{page}"></iframe>'

    def halt(self, request: gr.Request) -> None:
        """Stop the measuring of this page."""
        stop = self._measuring.get(request.session_hash)
        if stop is not None:
            stop.set()

    def combined(self, names: list[str], new: str, progress: Any = gr.Progress()) -> list[Any]:
        """Several packs become one."""
        from ...combine import merge

        if len(names) < 2:
            raise InputError("choose two packs or more")
        wanted = self.shop.check_new(new.strip() or self.shop.free_name("together"))

        def shown(event: Any) -> None:
            progress((event.done, event.total), desc="Putting together")

        merged = merge(
            self.shop.model, [self.shop.read(each) for each in names], progress=shown, cancel=self.shop.stopping
        )
        kept = self.shop.keep_pack(wanted, merged)
        said = f"{kept.name} knows {' and '.join(names_of(concepts_of(kept)))}."
        return [time.time(), "", notes([said])]

    def received(self, file: str | None) -> list[Any]:
        """A pack from somebody else: what it is; nothing is kept yet."""
        if file is None:
            return [None, "", gr.update(visible=False), gr.update(visible=False)]
        pack = self.shop.looked_into(Path(file))
        wanted = self.shop.free_name(kept_name("-".join(concept.noun for concept in pack.concepts)[:40]))
        return [file, facts_of(pack), gr.update(value=wanted, visible=True), gr.update(visible=True)]

    def kept(self, file: str | None, name: str) -> list[Any]:
        """The pack that was looked into is kept."""
        if file is None:
            raise InputError("give a pack's zip file first")
        kept = self.shop.take_in(Path(file), name.strip())
        hidden = [None, "", gr.update(visible=False), gr.update(visible=False)]
        return [time.time(), *hidden, None, notes([f"{kept.name} is kept."])]


def _chosen(name: str | None) -> str:
    if not name:
        raise InputError("choose a pack first")
    return name


def _day(kept: KeptPack) -> str:
    return datetime.fromtimestamp(kept.created).strftime("%d %b %Y")


def _table(packs: list[KeptPack]) -> str:
    if not packs:
        return "<p class='hint'>Nothing was learned yet. Begin under <em>Learn</em>.</p>"
    rows = ""
    for kept in packs:
        words = ", ".join(names_of(concepts_of(kept)))
        licence = kept.about.get("licence") or ""
        size = f"{kept.bytes / 1e6:.1f} MB"
        cells = "".join(f"<td>{text(value)}</td>" for value in (words, _day(kept), size, licence))
        rows += f"<tr><th scope='row'>{text(kept.name)}</th>{cells}</tr>"
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Name", "Knows", "Since", "Size", "Licence"))
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
