"""The tab to draw on: words in which concepts have names, a picture to start from, a hole to fill."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr
from PIL import Image

from ...concepts import MAX_CONCEPTS
from ...disk.checked import shown
from ...errors import InputError, SdkError
from ...images.image_io import square
from ...library import KeptPicture
from ...rules.drawing import check_seed, check_strength, picture_and_hole
from ...runtime import Cancelled
from ...serve.drawing.batching import Order
from ...serve.drawing.painter import Edit, How
from .. import photo as photos
from ..telling import bar, duration, notes
from ..words import names_of
from ..workshop import MOST_PICTURES, Workshop, concepts_of

WORDS, CHANGE, HOLE = "From words", "Change a picture", "Fill a hole in a picture"
_SPEEDS = [("Exact", "exact"), ("Balanced", "balanced"), ("Fast", "fast")]
_ALONE = "Nothing learned: the model alone"
# In the page itself: the next chip may be clicked before an answer from here.
_ADD = "(text, name) => text.trim() === '' ? name : /(,|\\b(and|with|to|of|a))\\s*$/i.test(text) ? " + (
    "text.trimEnd() + ' ' + name : text.trimEnd() + ' and ' + name"
)
_LOOKS = 0.3  # seconds between two looks at how far a drawing is


def _telling(handler: Callable[..., Iterator[list[Any]]]) -> Callable[..., Iterator[list[Any]]]:
    """Let what is wrong be told where it is told how far a drawing is."""

    @wraps(handler)
    def telling(*given: Any) -> Iterator[list[Any]]:
        try:
            yield from handler(*given)
        except SdkError as error:
            yield [notes([str(error)], "problem"), gr.skip(), gr.skip()]

    return telling


class DrawTab:
    """Builds the tab within a page; :attr:`done` changes when pictures were drawn.

    Args:
        shop: what it works with.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self._orders: dict[str | None, Order] = {}  # of each open page
        self.done = gr.State(0)
        with gr.Row(equal_height=False):
            with gr.Column():
                self._words()
                self._start()
                self._settings()
            with gr.Column():
                self._pictures()
        self._connect()

    def _words(self) -> None:
        self.pack = gr.Dropdown([(_ALONE, "")], value="", label="Draw with", elem_id="draw-pack")
        self.prompt = gr.Textbox(
            "", label="What to draw", lines=2, placeholder="my cat and my dog on the beach", elem_id="prompt"
        )
        self.chips = []
        with gr.Row(elem_classes="chips"):
            for index in range(MAX_CONCEPTS):
                self.chips.append(gr.Button("", visible=False, size="sm", min_width=60, elem_id=f"chip-{index}"))
        self.way = gr.Radio([WORDS, CHANGE, HOLE], value=WORDS, label="How", elem_id="way")

    def _start(self) -> None:
        with gr.Column(visible=False) as self.starting:
            gr.HTML(
                "<p class='hint'>The picture to start from; its middle square is used. To fill a hole, paint over what "
                "shall be drawn anew.</p>"
            )
            self.start = gr.ImageEditor(
                show_label=False,
                type="pil",
                format="png",
                sources=("upload", "clipboard"),
                transforms=(),
                layers=False,
                canvas_size=(photos.EDITED, photos.EDITED),
                brush=gr.Brush(default_size=40, colors=[("#e5484d", 0.6)], color_mode="fixed"),
                eraser=gr.Eraser(default_size=40),
                buttons=[],
                elem_id="start",
            )
            self.strength = gr.Slider(0.1, 1.0, 0.6, step=0.05, label="How much of it changes", buttons=[])

    def _settings(self) -> None:
        with gr.Row():
            self.count = gr.Slider(1, MOST_PICTURES, 4, step=1, label="How many", buttons=[], elem_id="count")
            self.seed = gr.Textbox("", label="Seed; empty: any", max_length=20, elem_id="draw-seed")
        self.speed = gr.Radio(_SPEEDS, value="exact", label="Speed", elem_id="speed")
        with gr.Accordion("More settings", open=False):
            self.negative = gr.Textbox("", label="What to stay away from", elem_id="negative")
            side = self.shop.painter.resolution
            sizes = sorted({(side, side), (side * 3 // 2, side), (side, side * 3 // 2)})
            self.size = gr.Dropdown(
                [("The model's own", "")] + [(f"{w} × {h}", f"{w}x{h}") for w, h in sizes if (w, h) != (side, side)],
                value="",
                label="Size in pixels",
            )
            self.steps = gr.Number(0, precision=0, minimum=0, maximum=150, label="Steps; 0: as many as the model wants")
            self.guidance = gr.Number(0, minimum=0, label="Guidance; 0: as much as the model wants")
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", size="lg", elem_id="draw")
            self.stop = gr.Button("Stop", size="lg", elem_id="draw-stop")

    def _pictures(self) -> None:
        self.state = gr.HTML("", elem_id="drawing")
        self.drawn = gr.Gallery(
            show_label=False,
            format="png",
            columns=2,
            height="auto",
            object_fit="contain",
            buttons=["download", "fullscreen"],
            elem_id="drawn",
        )

    def _connect(self) -> None:
        self.pack.change(self.chosen, self.pack, self.chips, show_progress="hidden")
        for chip in self.chips:
            chip.click(None, [self.prompt, chip], self.prompt, js=_ADD)
        self.way.change(self.started, self.way, [self.starting, self.strength], show_progress="hidden")
        given = [self.prompt, self.pack, self.way, self.start, self.strength, self.count, self.seed, self.speed]
        given += [self.negative, self.size, self.steps, self.guidance]
        gr.on(
            [self.draw.click, self.prompt.submit],
            self.drawing,
            given,
            [self.state, self.drawn, self.done],
            show_progress="hidden",
            concurrency_limit=None,  # there is a line behind it
        )
        self.stop.click(self.halt, None, None, show_progress="hidden")

    def offered(self, current: str | None) -> Any:
        """The packs to choose from; the one that was chosen stays, else the newest is."""
        packs = self.shop.library.packs.all()
        newest = str(max((kept.id for kept in packs), default=""))
        choices = [*((kept.name, str(kept.id)) for kept in packs), (_ALONE, "")]
        there = current in [value for _, value in choices[:-1]]
        return gr.update(choices=choices, value=current if there else newest)

    def newest(self) -> Any:
        """The packs to choose from; the newest is chosen."""
        return self.offered(None)

    def chosen(self, id: str) -> list[Any]:
        """Another pack: its names as chips."""
        kept = self.shop.find(int(id)) if id else None
        names = [] if kept is None else names_of(concepts_of(kept))
        shown = [gr.update(value=each, visible=True) for each in names]
        return [*shown, *[gr.update(visible=False)] * (MAX_CONCEPTS - len(shown))]

    def started(self, way: str) -> list[Any]:
        """Another way to draw."""
        return [gr.update(visible=way != WORDS), gr.update(visible=way == CHANGE)]

    @_telling
    def drawing(
        self,
        text: str,
        pack: str,
        way: str,
        start: dict[str, Any] | None,
        strength: float,
        count: float,
        seed: str,
        speed: str,
        negative: str,
        size: str,
        steps: float | None,
        guidance: float | None,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """Draw, and tell how far it is, or what is wrong."""
        if not text.strip():
            raise InputError("write what to draw first")
        edit = None if way == WORDS else self._edit(way, start, strength)
        width, height = (int(side) for side in size.split("x")) if size and edit is None else (None, None)
        how = How(
            width, height, int(steps) if steps else None, speed, None, float(guidance) if guidance else None, edit
        )
        shares: queue.SimpleQueue[float] = queue.SimpleQueue()
        first = _seed(seed)
        begin = time.monotonic()
        kept_pack = self.shop.find(int(pack)) if pack else None
        if pack and kept_pack is None:
            raise InputError("this pack was deleted; choose another")
        name = "" if kept_pack is None else kept_pack.name
        read = self.shop.read(name) if name else None
        order, remarks = self.shop.draw(text, read, how, int(count), first, negative, shares.put)
        share = 0.0
        self._orders[request.session_hash] = order
        try:
            yield [bar("Waiting for its turn", 0.0), gr.skip(), gr.skip()]
            while not order.done.done():
                time.sleep(_LOOKS)
                while not shares.empty():
                    share = shares.get()
                if share > 0:
                    left = (time.monotonic() - begin) * (1 - share) / share
                    yield [bar("Drawing", share, f" · {duration(left)} left"), gr.skip(), gr.skip()]
            images = order.done.result()
        except Cancelled:
            yield [notes(["Stopped; nothing of this drawing is kept."]), gr.skip(), gr.skip()]
            return
        finally:
            order.cancel.set()
            self._orders.pop(request.session_hash, None)
        about: dict[str, Any] = {
            "prompt": text,
            "pack": name,
            "pack_id": pack,
            "way": way,
            "speed": speed,
            "negative_prompt": negative,
        }
        about |= {"steps": int(steps) if steps else None, "guidance_scale": guidance or None, "size": size}
        about |= {"negative_prompt": negative, "strength": strength if way == CHANGE else None}
        kept = [
            self.shop.keep(image, about | {"seed": row.seed}) for row, image in zip(order.rows, images, strict=True)
        ]
        shown = [(str(each.path), f"{text}, seed {each.about['seed']}") for each in kept]
        seconds = f"{len(kept)} in {time.monotonic() - begin:.1f} seconds. All of them are in the gallery."
        yield [notes(remarks, "problem") + notes([seconds]), shown, time.time()]

    def halt(self, request: gr.Request) -> None:
        """Stop the drawing of this page."""
        order = self._orders.get(request.session_hash)
        if order is not None:
            order.cancel.set()

    def _edit(self, way: str, start: dict[str, Any] | None, strength: float) -> Edit:
        picture = None if start is None else start.get("background")
        if picture is None:
            raise InputError("give the picture to start from")
        side = self.shop.painter.resolution
        picture = picture.convert("RGB")
        if way == CHANGE:
            return Edit(square(picture, side), None, check_strength(strength))
        hole = photos.painted(start, picture.size)
        if hole is None:
            raise InputError("paint over what shall be drawn anew")
        picture, hole = picture_and_hole(picture, hole, side)
        return Edit(picture, hole, 1.0)

    def again(self, kept: KeptPicture) -> list[Any]:
        """Return values of :attr:`repeated` that draw a picture of the gallery once more."""
        about = kept.about
        pack = about.get("pack_id") or ""
        if about.get("way", WORDS) != WORDS:
            raise InputError("this picture was made from another one; 'Change it' starts from it")
        if pack and self.shop.find(int(pack)) is None:
            raise InputError(f"the pack {about.get('pack')} was deleted; bring it back first")
        return [
            about.get("prompt", ""),
            gr.update(value=pack),
            WORDS,
            str(about.get("seed", "")),
            about.get("speed", "exact"),
            about.get("negative_prompt", ""),
            about.get("size", ""),
            about.get("steps") or 0,
            about.get("guidance_scale") or 0,
        ]

    @property
    def repeated(self) -> list[Any]:
        """What :meth:`again` fills in."""
        settings = [self.negative, self.size, self.steps, self.guidance]
        return [self.prompt, self.pack, self.way, self.seed, self.speed, *settings]

    def start_from(self, kept: KeptPicture) -> list[Any]:
        """Return values of way, start and its settings that change a picture of the gallery."""
        with Image.open(kept.path) as opened:
            side = max(photos.EDITED, self.shop.painter.resolution)
            picture = square(opened.convert("RGB"), min(opened.size))
        value = photos.to_paint_on(picture, None, photos.COLOURS[0], side)
        return [gr.update(value=HOLE), value, gr.update(visible=True), gr.update(visible=False)]


def _seed(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal():
        raise InputError(f"a seed is a whole number, got {shown(text)}; leave it empty for any")
    return check_seed(int(text))
