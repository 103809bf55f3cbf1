"""The tab to learn on: a photo, its crop, what is in it, masks, and the fit."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr
from PIL import Image

from ...concepts import MAX_CONCEPTS, Concept, resolve_concepts
from ...disk.file_names import kept_name
from ...errors import InputError
from ...images.image_io import load_image
from ...library import Job
from ...library.jobs import CANCELLED, DONE, FAILED, RUNNING, WAITING
from ...masks.attention_maps import LOW_CONFIDENCE
from ...methods import METHODS, PRESETS
from ...rights import stated_rights
from ...rules.drawing import check_seed
from .. import photo as photos
from ..course import job_line, job_words, losses_of, samples_of
from ..telling import notes, told
from ..workshop import Workshop

_LOOKS = 1.5  # seconds between two looks at how far a fit has come


class LearnTab:
    """Builds the tab within a page; :attr:`done` changes when a pack was learned.

    Args:
        shop: what it works with.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self.photo, self.crop = gr.State(None), gr.State(None)
        self.ready = gr.State("")  # of which square and words the masks are that are shown
        self.job, self.looked = gr.State(None), gr.State((0, -1))
        self.done = gr.State(0)
        with gr.Row():
            with gr.Column():
                self._photo()
            with gr.Column():
                self._concepts()
        self._masks()
        self._settings()
        self._course()
        self._connect()

    def _photo(self) -> None:
        gr.HTML("<h2>1. A photo</h2>")
        gr.HTML("<p class='hint'>With two or three things in it. Drop it here, choose a file, or paste it.</p>")
        self.upload = gr.Image(
            label="Photo",
            type="filepath",
            sources=["upload", "clipboard"],
            height=220,
            alt_text="The photo that was given",
            buttons=[],
            elem_id="photo",
        )
        # Not a class of its own: for each of those Gradio writes a file beside the module.
        self.upload.preprocess = _path_of  # type: ignore[method-assign, assignment]
        self.example = gr.Button("Use the example picture", size="sm", elem_id="example")
        with gr.Column(visible=False) as self.cropping:
            gr.HTML("<p class='hint'>The bright square is learned from. Click where its middle shall be.</p>")
            self.shown = gr.Image(
                show_label=False,
                interactive=False,
                format="png",
                height=320,
                buttons=[],
                alt_text="The photo, with what is left out darkened",
                elem_id="crop",
            )
            self.across = gr.Slider(0, 100, 50, step=1, label="Square: left to right", buttons=[])
            self.down = gr.Slider(0, 100, 50, step=1, label="Square: top to bottom", buttons=[])
            self.share = gr.Slider(20, 100, 100, step=1, label="Square: size in percent", buttons=[])

    def _concepts(self) -> None:
        gr.HTML("<h2>2. What is in it</h2>")
        self.nouns = gr.Dropdown(
            self.shop.nouns,
            value=[],
            label="One plain word for each thing; Enter adds it",
            info="Such as cat, dog or teddy bear.",
            multiselect=True,
            allow_custom_value=True,
            max_choices=MAX_CONCEPTS,
            elem_id="nouns",
        )
        self.said = gr.HTML("", elem_id="nouns-said")
        self.find = gr.Button("Find where they are", elem_id="find")
        gr.HTML(
            '<p class="hint">Masks are proposed, and you correct them. You may skip this: then they are found while '
            "learning, and nobody looks at them.</p>"
        )

    def _masks(self) -> None:
        self.editors: list[gr.ImageEditor] = []
        with gr.Column(visible=False, elem_id="masks") as self.masking:
            gr.HTML(
                "<h2>3. Where they are</h2><p class='hint'>Paint with the brush what belongs to a thing, take away "
                "with the eraser what does not.</p>"
            )
            self.confidence = gr.HTML("")
            with gr.Row(elem_id="editors"):
                for index in range(MAX_CONCEPTS):
                    colour = photos.COLOURS[index % len(photos.COLOURS)]
                    editor = gr.ImageEditor(
                        type="pil",
                        format="png",
                        sources=(),
                        transforms=(),
                        layers=False,
                        canvas_size=(photos.EDITED, photos.EDITED),
                        fixed_canvas=True,
                        brush=gr.Brush(default_size=32, colors=[(colour, 0.6)], color_mode="fixed"),
                        eraser=gr.Eraser(default_size=32),
                        buttons=[],
                        visible=False,
                        min_width=300,
                        elem_id=f"mask-{index}",
                    )
                    self.editors.append(editor)

    def _settings(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column():
                self.name = gr.Textbox(
                    "", label="Name of what is learned", placeholder="my-pets", max_length=64, elem_id="pack-name"
                )
            with gr.Column(), gr.Accordion("More settings", open=False):
                self.method = gr.Dropdown(sorted(METHODS), value="disendiff", label="Method", elem_id="method")
                self.preset = gr.Dropdown(list(PRESETS), value="best", label="Preset")
                self.steps = gr.Number(0, precision=0, minimum=0, label="Steps; 0: the preset's own", elem_id="steps")
                self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                self.licence = gr.Textbox("", label="Licence, if you want to state one", placeholder="CC-BY-4.0")
                self.consent = gr.Textbox("", label="Whose consent there is, if somebody is shown")
        self.learn = gr.Button("Learn", variant="primary", size="lg", elem_id="learn")

    def _course(self) -> None:
        self.state = gr.HTML("", elem_id="course")
        with gr.Row():
            self.stop = gr.Button("Stop", visible=False, elem_id="stop")
            self.go_on = gr.Button("Go on", visible=False, elem_id="go-on")
            self.forget = gr.Button("Forget it", visible=False, elem_id="forget")
            self.really = gr.Button("Really forget it, and what it learned so far", visible=False, variant="stop")
        with gr.Row(visible=False) as self.watching:
            with gr.Column():
                gr.HTML("<h3>What is drawn so far</h3>")
                self.samples = self._samples()
            with gr.Column():
                gr.HTML("<h3>Losses</h3>")
                self.plot = gr.LinePlot(x="step", y="loss", color="kind", height=260, buttons=[], elem_id="losses")
        with gr.Column(visible=False) as self.maps:
            gr.HTML("<h3>Where the words look: before learning, and now</h3>")
            self.attention = gr.Image(
                show_label=False,
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                alt_text="Maps of attention over the photo for every word",
                elem_id="attention",
            )
        with gr.Accordion("All that was asked for", open=False):
            self.jobs = gr.Dropdown([], label="Show", interactive=True, elem_id="jobs")
        self.timer = gr.Timer(_LOOKS)

    def _samples(self) -> gr.Gallery:
        return gr.Gallery(
            show_label=False,
            format="png",
            columns=3,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            buttons=[],
            elem_id="samples",
        )

    def _connect(self) -> None:
        box = [self.across, self.down, self.share]
        shown = [self.shown, self.crop, self.ready, self.masking]
        taken = [self.photo, *box, self.cropping, *shown]
        self.upload.change(told(self.take), self.upload, taken, show_progress="minimal")
        self.example.click(told(self.take_example), None, [self.upload, self.nouns])
        for slider in box:
            slider.input(told(self.cut), [self.photo, *box], shown, show_progress="hidden", trigger_mode="always_last")
        self.shown.select(told(self.centre), [self.photo, self.share], [self.across, self.down]).then(
            told(self.cut), [self.photo, *box], shown, show_progress="hidden"
        )
        self.nouns.change(told(self.check), self.nouns, [self.said, self.ready, self.masking], show_progress="hidden")
        masks = [self.masking, self.confidence, self.ready, *self.editors]
        self.find.click(told(self.propose), [self.crop, self.nouns], masks, show_progress_on=self.find)
        asked = [self.method, self.preset, self.steps, self.seed, self.licence, self.consent]
        self.learn.click(
            told(self.ask),
            [self.crop, self.nouns, self.name, self.ready, *asked, *self.editors],
            [self.job, self.name, self.ready, self.masking],
            show_progress="minimal",
        ).then(self.look, [self.job, self.looked, self.done], self.watched, show_progress="hidden")
        self.timer.tick(self.look, [self.job, self.looked, self.done], self.watched, show_progress="hidden")
        self.jobs.input(self.choose, self.jobs, [self.job, self.looked])
        self.stop.click(told(self.halt), self.job, None)
        self.go_on.click(told(self.again), self.job, None)
        self.forget.click(lambda: gr.update(visible=True), None, self.really, show_progress="hidden")
        self.really.click(told(self.away), self.job, [self.job, self.really])

    @property
    def watched(self) -> list[Any]:
        """What a look at the fit changes."""
        buttons = [self.stop, self.go_on, self.forget]
        pictures = [self.watching, self.samples, self.plot, self.maps, self.attention]
        return [self.job, self.looked, self.done, self.state, *buttons, *pictures, self.jobs]

    # The photo

    def take(self, file: str | None) -> list[Any]:
        """A photo came, or went."""
        if file is None:
            return [None, gr.skip(), gr.skip(), gr.skip(), gr.update(visible=False), *self.cut(None, 50, 50, 100)]
        picture = load_image(file)
        return [picture, 50, 50, 100, gr.update(visible=True), *self.cut(picture, 50, 50, 100)]

    def take_example(self) -> list[Any]:
        """A cat and a dog, for who has no photo at hand."""
        return [str(files("sdk.studio").joinpath("example.png")), ["cat", "dog"]]

    def cut(self, picture: Image.Image | None, across: float, down: float, share: float) -> list[Any]:
        """The square was moved."""
        if picture is None:
            return [None, None, "", gr.update(visible=False)]
        box = photos.crop_box(picture.size, across, down, share)
        return [photos.outlined(picture, box), photos.cropped(picture, box), "", gr.update(visible=False)]

    def centre(self, picture: Image.Image | None, share: float, click: gr.SelectData) -> list[Any]:
        """A click on the photo: the middle of the square."""
        if picture is None or not isinstance(click.index, list | tuple):
            return [gr.skip(), gr.skip()]
        factor = photos.scale(picture.size)
        place = (click.index[0] / factor, click.index[1] / factor)
        across, down = photos.centred_at(picture.size, place, share)
        return [round(across), round(down)]

    # What is in it

    def check(self, nouns: list[str]) -> list[Any]:
        """The words changed: is there one that cannot be, or that the model does not know?"""
        if not nouns:
            return ["", "", gr.update(visible=False)]
        concepts = resolve_concepts(nouns)
        found = [note for concept in concepts for note in self.shop.model.check_prompt(f"a {concept.noun}")]
        return [notes(found, "problem"), "", gr.update(visible=False)]

    def propose(self, crop: Image.Image | None, nouns: list[str], progress: Any = gr.Progress()) -> list[Any]:
        """Masks by the model's attention, each in an editor."""
        crop, concepts = self._whole(crop, nouns)

        def shown(event: Any) -> None:
            progress((event.done, event.total), desc="Looking for them")

        found = self.shop.model.find_masks(crop, concepts, progress=shown, cancel=self.shop.stopping)
        unsure = [
            f"The mask of {concept.noun} is a guess: correct it."
            for concept, mask in zip(concepts, found, strict=True)
            if mask.info.get("confidence", 1.0) < LOW_CONFIDENCE
        ]
        editors = [
            gr.update(visible=True, label=concept.noun, value=photos.to_paint_on(crop, mask, photos.COLOURS[index]))
            for index, (concept, mask) in enumerate(zip(concepts, found, strict=True))
        ]
        hidden = [gr.update(visible=False, value=None)] * (MAX_CONCEPTS - len(editors))
        return [gr.update(visible=True), notes(unsure, "problem"), photos.key_of(crop, nouns), *editors, *hidden]

    def _whole(self, crop: Image.Image | None, nouns: list[str]) -> tuple[Image.Image, list[Concept]]:
        if crop is None:
            raise InputError("give a photo first; if there is one, the studio was started anew: load this page again")
        if not nouns:
            raise InputError("say what is in the photo first: one plain word for each thing")
        return crop, resolve_concepts(nouns)

    # The fit

    def ask(
        self,
        crop: Image.Image | None,
        nouns: list[str],
        name: str,
        masked: str,
        method: str,
        preset: str,
        steps: float | None,
        seed: float | None,
        licence: str,
        consent: str,
        *edited: Any,
    ) -> list[Any]:
        """Put a fit in the line; the editors go, so that there is room for how far it comes."""
        crop, concepts = self._whole(crop, nouns)
        masks = None
        if masked:
            if masked != photos.key_of(crop, nouns):
                raise InputError("the masks are of another square or of other words; find them again")
            masks = [_painted(concept, each, crop.size) for concept, each in zip(concepts, edited, strict=False)]
        wanted = name.strip() or kept_name("-".join(["my", *(concept.noun for concept in concepts)]))
        asked = {
            "name": self.shop.check_new(wanted) if name.strip() else self.shop.free_name(wanted),
            "concepts": [concept.noun for concept in concepts],
            "method": method,
            "preset": preset,
            "settings": {"steps": int(steps)} if steps else {},
            "seed": check_seed(int(seed or 0)),
            "replaces": False,
            **stated_rights(licence.strip() or None, consent.strip() or None),
        }
        job = self.shop.fitter.add(asked, crop, masks)
        return [job.id, "", "", gr.update(visible=False)]

    def look(self, id: int | None, looked: tuple[int, int], done: int) -> list[Any]:
        """How far the fit that is shown has come."""
        jobs = self.shop.library.jobs.all()
        job = next((job for job in jobs if job.id == id), None) or _of_interest(jobs)
        choices = gr.update(choices=[(job_line(each), each.id) for each in jobs], value=None if job is None else job.id)
        if job is None:
            hidden = gr.update(visible=False)
            return [None, (0, -1), done, "", hidden, hidden, hidden, hidden, [], None, hidden, None, choices]
        course = self.shop.fitter.course(job.id)
        buttons = [
            gr.update(visible=job.status in (RUNNING, WAITING)),
            gr.update(visible=job.status in (FAILED, CANCELLED)),
            gr.update(visible=job.over),
        ]
        now = (job.id, course.looked)
        pictures: list[Any] = [gr.update(visible=bool(course.losses)), *[gr.skip()] * 4]
        if course.losses:
            pictures[2] = losses_of(course)
        if now != tuple(looked):
            pictures[1] = samples_of(job, course)
            pictures[3:] = [gr.update(visible=course.attention is not None), course.attention]
        learned = sum(each.status == DONE for each in jobs)
        words = job_words(job, course)
        return [job.id, now, learned, words, *buttons, *pictures, choices]

    def choose(self, id: int | None) -> list[Any]:
        """Another fit is to be shown."""
        return [id, (0, -1)]

    def halt(self, id: int | None) -> None:
        """Stop the fit that is shown."""
        if id is not None:
            self.shop.fitter.stop(id)

    def away(self, id: int | None) -> list[Any]:
        """Forget the fit that is shown, which has ended."""
        if id is not None:
            self.shop.fitter.forget(id)
        return [None, gr.update(visible=False)]

    def again(self, id: int | None) -> None:
        """Let the fit that is shown go on."""
        if id is not None:
            self.shop.fitter.again(id)


def _path_of(sent: Any) -> str | None:
    """Where an uploaded file is: :func:`sdk.images.image_io.load_image` reads it, and has an answer for each."""
    return None if sent is None else sent.path


def _painted(concept: Concept, edited: Any, size: tuple[int, int]) -> Image.Image:
    mask = photos.painted(edited, size)
    if mask is None:
        raise InputError(f"the mask of {concept.noun} is empty; paint it, or find the masks again")
    return mask


def _of_interest(jobs: list[Job]) -> Job | None:
    """The fit that runs, else the last one."""
    return next((job for job in jobs if job.status == RUNNING), jobs[0] if jobs else None)
