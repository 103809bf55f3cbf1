"""Fits, one after another, in a thread of their own; after any end of the program they go on where they were."""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept
from ..disk.file_names import mask_name
from ..errors import InputError, OutputError, SdkError
from ..fit.reporting import StepReport
from ..images.image_io import png
from ..library import Job, Library
from ..library.jobs import CANCELLED, DONE, FAILED, WAITING
from ..personalizer import Personalizer
from ..runtime import Cancelled, Event
from .described import described, without_path

log = logging.getLogger("sdk.serve")
PHOTO, PACK = "photo.png", "pack"
_LOOKS = 5.0  # seconds between two looks for what waits, beside those it is told of
_LOSSES = 2000  # steps whose losses are remembered
_SAMPLE_STEPS = 12  # of the sampler: samples while a fit runs are to be looked at, not kept


@dataclass
class Course:
    """How far a fit has come.

    Attributes:
        event: what was told last.
        losses: step and losses by name, of each step.
        samples: each concept alone, and all together, as they are drawn so far; drawn anew now and then.
        attention: where the concepts' words look, before the fit and at that time.
        looked: the step after which that was.
        cancel: ends it.
        unwanted: whether a user asked for that.
    """

    event: Event = field(default_factory=lambda: Event("fit", 0, 1))
    losses: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    samples: list[Image.Image] = field(default_factory=list)
    attention: Image.Image | None = None
    looked: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    unwanted: bool = False


class Fitter:
    """Works on the library's jobs; a context manager, whose end lets a fit stop at its next checkpoint.

    Args:
        model: what is taught; it is used by nobody else, though it may share its modules.
        library: has the jobs, and gets the packs.
        looks: how many times samples are drawn while a fit runs.
    """

    def __init__(self, model: Personalizer, library: Library, looks: int = 0) -> None:
        self.model, self.library, self.looks = model, library, looks
        self._courses: dict[int, Course] = {}
        self._last: tuple[int, Course] | None = None  # that ended
        self._changed = threading.Condition()
        self._closing = False
        self._fitting = ThreadPoolExecutor(1, "fitting")
        self._thread = threading.Thread(target=self._work, name="fits", daemon=True)
        self._thread.start()

    def add(self, asked: dict[str, Any], photo: Image.Image, masks: list[Image.Image] | None) -> Job:
        """Check what is asked and put it into the line.

        Args:
            asked: see :meth:`settings`.
            photo: the reference picture.
            masks: white where each concept is, or ``None``.

        Raises:
            SdkError: what cannot be fitted.
        """
        concepts, _ = self.settings(asked)
        if masks is not None and len(masks) != len(concepts):
            raise InputError(f"give a mask for each of the {len(concepts)} concepts, or none, got {len(masks)}")
        files = {PHOTO: png(photo)} | {mask_name(i): png(mask) for i, mask in enumerate(masks or [])}
        job = self.library.jobs.add(asked | {"masks": 0 if masks is None else len(masks)}, files)
        self.wake()
        return job

    def settings(self, asked: dict[str, Any]) -> tuple[list[Concept], Any]:
        """Return concepts and settings of what is asked.

        Args:
            asked: ``concepts`` (nouns), ``method``, ``preset``, ``settings`` (a mapping), ``seed``, ``name``, and maybe
                ``licence``, ``consent``, and ``replaces``: whether a pack of that name goes, or this one gets another.

        Raises:
            SdkError: what cannot be fitted.
        """
        concepts = [Concept(noun, f"<new{i}>") for i, noun in enumerate(asked["concepts"], start=1)]
        base = self.model.default_config(asked["preset"], asked["method"])
        config = base.with_changes(**_known(asked["settings"]))
        return concepts, config

    def course(self, id: int) -> Course:
        """Return how far a fit has come; of the one that ended last, how it went."""
        with self._changed:
            last = self._last[1] if self._last is not None and self._last[0] == id else Course()
            return self._courses.get(id, last)

    def wake(self) -> None:
        """Look for what waits."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, id: int) -> None:
        """End a fit before its next step, or take it out of the line; it can go on from there. Forget one that is over.

        Raises:
            MissingFileError: there is none.
        """
        if self.library.jobs.get(id).over:
            self.forget(id)
        else:
            self.stop(id)

    def stop(self, id: int) -> None:
        """End a fit before its next step, or take it out of the line; it can go on from there."""
        with self._changed:
            course = self._courses.get(id)
            if course is not None:
                course.unwanted = True
                course.cancel.set()
            else:
                self.library.jobs.end(id, CANCELLED, only=WAITING)

    def forget(self, id: int) -> None:
        """Forget a fit that is over, and its files.

        Raises:
            InputError: it runs, waits or is still ending.
            MissingFileError: there is none.
        """
        with self._changed:
            if id in self._courses or not self.library.jobs.get(id).over:
                raise InputError("this fit runs, waits or is still ending; stop it first")
            self.library.jobs.remove(id)

    def again(self, id: int) -> Job:
        """Let a fit that failed or was cancelled go on from its last step.

        Raises:
            InputError: it runs, or is still ending.
            MissingFileError: there is none.
        """
        with self._changed:
            if id in self._courses:
                raise InputError("this fit runs, or is still ending; try again when it has ended")
        job = self.library.jobs.again(id)
        self.wake()
        return job

    @property
    def alive(self) -> bool:
        """Whether somebody works on fits."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop before the next step; the next program goes on from it."""
        with self._changed:
            self._closing = True
            for course in self._courses.values():
                course.cancel.set()
            self._changed.notify_all()
        self._thread.join()
        self._fitting.shutdown()

    def __enter__(self) -> Fitter:
        return self

    def __exit__(self, *of: Any) -> None:
        self.close()

    def _work(self) -> None:
        while not self._closing:
            try:
                begun = self._begun()
                if begun is not None:
                    self._worked_on(*begun)
                    continue
            except OutputError as error:  # for a while: no reason to stop working for good
                log.error("no fit could be begun or ended: %s", error)
            with self._changed:
                if not self._closing:
                    self._changed.wait(_LOOKS)

    def _begun(self) -> tuple[Job, Course] | None:
        """The first one that waits; from the moment it runs it can be stopped."""
        with self._changed:
            job = None if self._closing else self.library.jobs.begin()
            if job is None:
                return None
            course = self._courses[job.id] = Course()
        return job, course

    def _worked_on(self, job: Job, course: Course) -> None:
        # What it raises is this fit's alone: the next one is fitted all the same.
        error = self._fitting.submit(self._fitted, job, course).exception()
        try:
            if isinstance(error, Cancelled):
                if course.unwanted or not self._closing:  # else it waits for the next program
                    self.library.jobs.end(job.id, CANCELLED)
            elif isinstance(error, SdkError):
                self.library.jobs.end(job.id, FAILED, without_path(error, job.folder, "the fit"))
            elif error is not None:
                log.error("a mistake of the program: fit %d failed; report it", job.id, exc_info=error)
                told = "a mistake of the program; tell whoever runs the server, whose log has more"
                self.library.jobs.end(job.id, FAILED, told)
        finally:
            with self._changed:
                self._last = job.id, self._courses.pop(job.id)

    def _fitted(self, job: Job, course: Course) -> None:
        """Fit, and keep the pack."""
        asked = job.asked
        concepts, config = self.settings(asked)

        def progress(event: Event) -> None:
            course.event = event

        def step(report: StepReport) -> None:
            course.losses.append((report.step, dict(report.losses)))
            del course.losses[:-_LOSSES]
            if self.looks and report.step < report.steps and report.step % max(1, report.steps // self.looks) == 0:
                self._look(course, report)

        masks = [job.folder / mask_name(i) for i in range(asked["masks"])]
        pack = self.model.fit(
            job.folder / PHOTO,
            concepts,
            method=asked["method"],
            config=config,
            seed=asked["seed"],
            masks=masks or None,
            output_dir=job.folder / PACK,
            resume=True,
            callback=step,
            progress=progress,
            cancel=course.cancel,
            licence=asked.get("licence"),
            consent=asked.get("consent"),
        )

        def write(place: Path) -> dict[str, Any]:
            shutil.copytree(job.folder / PACK, place)
            return described(pack)

        kept = self.library.packs.put(asked["name"], write, replaces=asked.get("replaces", True))
        self.library.jobs.end(job.id, DONE, pack=kept.id)
        shutil.rmtree(job.folder, ignore_errors=True)  # the photo, and all but the pack

    def _look(self, course: Course, report: StepReport) -> None:
        """Draw what is learned so far; whether that succeeds is nothing to the fit."""
        try:
            course.attention = report.looks.attention()
            pack = report.looks.pack()
            prompts = [f"photo of a {concept.phrase}" for concept in pack.concepts]
            course.samples = self.model.generate(
                prompts if len(prompts) == 1 else [*prompts, pack.prompt],
                concepts=pack,
                seed=0,
                num_inference_steps=self.model.steps_for(_SAMPLE_STEPS),
                cancel=course.cancel,
            ).images
            course.looked = report.step
        except Cancelled:  # the fit ends before its next step
            pass
        except SdkError as error:
            log.warning("no samples after step %d: %s", report.step, error)


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, none of which is one that a fit is asked for otherwise."""
    for name in ("preset", "method", "self", "base"):
        if name in settings:
            raise InputError(f"there is no setting {name!r} among the settings; ask for it beside them")
    return settings
