"""What may be asked of a call that draws; both engines, torch's and ONNX Runtime's, go by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept
from ..disk.files import prepare_output_folder, write_next
from ..errors import InputError
from ..images.image_io import load_image, load_mask, square
from ..images.record import PictureRecord, png_bytes, remember
from ..rights import Statement
from ..version import __version__
from .arguments import number, several, shown, text, whole
from .speed import EXACT, Speed

MOST_PICTURES, MOST_PIXELS = 10_000, 4096  # of a call; of a side


@dataclass(frozen=True)
class Generation:
    """What a call that draws returns.

    Attributes:
        images: RGB pictures, all of the first prompt, then all of the second, ...; each knows how it was drawn
            (``image.info["personalizer"]``), and :meth:`save` writes that too.
        notes: what is worth knowing about the prompts and the other arguments, often nothing.
        attempts: how many times each picture was drawn; empty where nobody looked at them.
        faults: what is still wrong with each picture, in a few words each; likewise.
    """

    images: list[Image.Image]
    notes: list[str]
    attempts: list[int] = field(default_factory=list)
    faults: list[list[str]] = field(default_factory=list)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the pictures as PNG files, each with how it was drawn; they get new numbers, nothing is replaced.

        Returns:
            Their paths: ``000.png``, ``001.png`` and so on, those that are taken left out.

        Raises:
            OutputError: the folder cannot be written.
        """
        destination = prepare_output_folder(folder)
        paths, number = [], 0
        for image in self.images:
            path, number = write_next(destination, "{:03d}.png".format, png_bytes(image), number)
            paths.append(path)
        return paths


def one_text_each(given: Any, count: int, what: str, missing: Any) -> list[Any]:
    """Return one text for each prompt: a list of as many, or one for all.

    Args:
        given: a text, or a list of texts and ``None``; or ``None``.
        count: of the prompts.
        what: it is, for messages.
        missing: what stands for ``None``.

    Raises:
        InputError: another count or type.
    """
    one = given is None or isinstance(given, str)
    values = [given] * count if one else several(given, what, "text", MOST_PICTURES)
    if len(values) != count:
        raise InputError(f"give one {what}, or one for each of the {count} prompts, got {len(values)}")
    return [missing if value is None else text(value, what) for value in values]


SCHEDULERS = ("ddim", "dpm++", "unipc", "euler")
_OTHER_NAMES = {"dpm": "dpm++"}  # of the first version


def check_scheduler_name(name: Any) -> str:
    """Return a sampler's name, one of :data:`SCHEDULERS`, or raise :class:`InputError`."""
    given = text(name, "scheduler")
    chosen = _OTHER_NAMES.get(given, given)
    if chosen not in SCHEDULERS:
        raise InputError(f"there is no scheduler {shown(given)}; choose one of {', '.join(SCHEDULERS)}")
    return chosen


def call_notes(
    scheduler: str,
    *,
    guided: bool,
    negative: bool,
    eta_unused: bool,
    seed_unused: bool = False,
    distilled: bool = False,
) -> list[str]:
    """Return what is worth telling about arguments that change nothing.

    Args:
        scheduler: its name.
        guided: whether pictures are steered away from negative prompts.
        negative: whether there is a negative prompt.
        eta_unused: whether ``eta`` was given, and the scheduler has none.
        seed_unused: whether a seed was given beside generators.
        distilled: whether the UNet takes the guidance scale as a number.
    """
    notes = []
    if negative and not guided:
        why = "the model was distilled with guidance" if distilled else "guidance_scale is not above 1"
        notes.append(f"the negative prompt has no effect, because {why}")
    if eta_unused:
        notes.append(f"eta has no effect with {scheduler}")
    if seed_unused:
        notes.append("seed has no effect beside generator")
    return notes


@dataclass(frozen=True)
class Numbers:
    """The numbers of a call that draws, checked.

    Attributes:
        num_images: per prompt.
        seeds: of the first picture of each prompt, or ``None``: at random.
        steps: of the sampler.
        guidance: ``None``: what the base model recommends.
        rescale: likewise.
        eta: ``None``: not given.
        height: of the pictures, pixels.
        width: likewise.
    """

    num_images: int
    seeds: list[int] | None
    steps: int
    guidance: float | None
    rescale: float | None
    eta: float | None
    height: int
    width: int


def check_numbers(
    prompts: Sequence[str],
    side: int,
    multiple: int,
    *,
    num_images: Any,
    seed: Any,
    num_inference_steps: Any,
    guidance_scale: Any,
    guidance_rescale: Any,
    eta: Any,
    height: Any,
    width: Any,
) -> Numbers:
    """Check the numbers of a call that draws; numpy's are numbers, too.

    Args:
        prompts: what is to be drawn.
        side: of the model's own pictures in pixels, for a side that is not given.
        multiple: sides must be multiples of this many pixels.
        num_images: the other arguments are those of :meth:`sdk.Personalizer.generate`.

    Raises:
        InputError: a value of another type, or one that cannot work.
    """
    count = whole(num_images, "num_images", 1, MOST_PICTURES)
    if count * len(prompts) > MOST_PICTURES:
        raise InputError(f"{len(prompts)} prompts with {count} pictures each are more than {MOST_PICTURES}; draw fewer")
    sides = []
    for name, value in (("height", height), ("width", width)):
        pixels = side if value is None else whole(value, name, 1)
        if pixels % multiple:
            raise InputError(f"{name} must be a positive multiple of {multiple}, got {pixels}")
        if pixels > MOST_PIXELS:
            raise InputError(f"{name} may be at most {MOST_PIXELS} pixels, got {pixels}")
        sides.append(pixels)
    return Numbers(
        count,
        None if seed is None else first_seeds(seed, len(prompts), count),
        check_steps(num_inference_steps),
        None if guidance_scale is None else number(guidance_scale, "guidance_scale", 0.0),
        None if guidance_rescale is None else number(guidance_rescale, "guidance_rescale", 0.0, 1.0),
        None if eta is None else number(eta, "eta", 0.0, 1.0),
        *sides,
    )


def check_steps(steps: Any) -> int:
    """Return a number of sampling steps that 1000 noise levels have, or raise :class:`InputError`."""
    return whole(steps, "num_inference_steps", 1, 999)  # the sampler starts one level further on


def first_seeds(seed: Any, prompts: int, pictures: int) -> list[int]:
    """Return the seed of the first picture of each prompt; the others of a prompt follow it.

    Args:
        seed: of the first picture of all, or one for each prompt.
        prompts: how many.
        pictures: of each.

    Raises:
        InputError: another count, or what :func:`check_seed` refuses.
    """
    if isinstance(seed, (list, tuple)):
        if len(seed) != prompts:
            raise InputError(f"give one seed, or one for each of the {prompts} prompts, got {len(seed)}")
        return [check_seed(each, pictures) for each in seed]
    first = check_seed(seed, prompts * pictures)
    return [first + i * pictures for i in range(prompts)]


def check_seed(seed: Any, pictures: int = 1) -> int:
    """Return a seed; that of the last of so many pictures must be below 2**63. Else raise :class:`InputError`."""
    value = whole(seed, "seed", 0)
    if value + pictures > 2**63:
        raise InputError("seed must lie between 0 and 2**63 - 1, for the last picture of a call, too")
    return value


def check_strength(strength: Any) -> float:
    """Return the share of the steps that are done, in (0, 1], or raise :class:`InputError`."""
    value = number(strength, "strength")
    if not 0 < value <= 1:
        raise InputError(f"strength must lie above 0 and at most at 1, got {value}")
    return value


def skipped_steps(steps: int, strength: float) -> int:
    """Return how many of the first steps an image-to-image drawing leaves out.

    Args:
        steps: of the sampler.
        strength: share of the steps that are done, in (0, 1].
    """
    return steps - max(round(steps * strength), 1)


def picture_and_hole(
    image: str | Path | Image.Image, mask: str | Path | Image.Image, side: int
) -> tuple[Image.Image, Image.Image]:
    """Read a picture and what of it is to be redrawn; return the centre squares of both.

    Args:
        image: the picture.
        mask: white where it is redrawn, of the picture's size.
        side: of the squares, pixels.

    Raises:
        InputError: a mask of another size, or without white in the square.
    """
    picture, hole = load_image(image), load_mask(mask).convert("L")
    if picture.size != hole.size:
        raise InputError(f"the mask must have the picture's size {picture.size}, got {hole.size}; resize it")
    hole = square(hole, side).point(lambda level: 255 if level >= 128 else 0)
    if hole.getbbox() is None:
        raise InputError("the mask is black everywhere; paint white what is to be redrawn")
    return square(picture, side), hole


def prompt_note(concepts: Sequence[Concept], written: Sequence[str], longest: int, *, truncated: bool) -> str | None:
    """Return what is worth telling about a prompt, or ``None``.

    Args:
        concepts: of the pack in use.
        written: tokens in the prompt.
        longest: tokens that the model reads.
        truncated: whether the prompt is longer.
    """
    if truncated:
        return f"the prompt is longer than {longest} tokens; its end is not read"
    if concepts and not written:
        names = " or ".join(c.phrase for c in concepts)
        return f"the prompt names no learned token; write {names} to draw what was learned"
    return None


def shown_name(base: str) -> str:
    """Return a base model's name as strangers may see it: of a path on this machine the last part alone."""
    local = base.startswith((".", "/", "~")) or "\\" in base or base.count("/") > 1
    return Path(base.replace("\\", "/")).name if local else base


def sign(
    image: Image.Image,
    prompt: str,
    negative: str,
    seed: int | None,
    *,
    numbers: Numbers,
    guidance: float,
    rescale: float,
    scheduler: str,
    base: str,
    concepts: Sequence[Concept],
    statement: Statement,
    strength: float | None = None,
    edited: bool,
    clip_skip: int = 0,
    speed: Speed = EXACT,
    separate: float = 0.0,
) -> None:
    """Let a drawn picture know how it was drawn, see :class:`sdk.images.record.PictureRecord`."""
    record = PictureRecord(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        steps=numbers.steps,
        scheduler=scheduler,
        guidance_scale=guidance,
        eta=1.0 if numbers.eta is None else numbers.eta,
        base=shown_name(base),
        pack=statement.content,
        concepts=tuple(c.phrase for c in concepts),
        edited=edited,
        strength=strength,
        licence=statement.licence,
        version=__version__,
        guidance_rescale=rescale,
        clip_skip=clip_skip,
        speed="" if speed is EXACT else speed.name,
        separate=separate,
    )
    remember(image, record)
