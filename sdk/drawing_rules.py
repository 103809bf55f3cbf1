"""What may be asked of a call that draws; both engines, torch's and ONNX Runtime's, go by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .concepts import Concept
from .errors import InputError
from .images.image_io import load_image, square


@dataclass(frozen=True)
class Generation:
    """What a call that draws returns.

    Attributes:
        images: RGB pictures, all of the first prompt, then all of the second, ...
        notes: remarks about the prompts that are worth reading, often none.
    """

    images: list[Image.Image]
    notes: list[str]


def check_counts(prompts: Sequence[str], num_images: int) -> None:
    """Raise :class:`InputError` without a prompt or a picture to draw."""
    if not prompts:
        raise InputError("give at least one prompt")
    if num_images < 1:
        raise InputError(f"num_images must be at least 1, got {num_images}")


def one_each(given: Any, count: int, what: str) -> list:
    """Return one value for each prompt: a list of as many, or one for all (a string or ``None``).

    Raises:
        InputError: another count.
    """
    values = [given] * count if given is None or isinstance(given, str) else list(given)
    if len(values) != count:
        raise InputError(f"give one {what}, or one for each of the {count} prompts, got {len(values)}")
    return values


def check_size(height: int | None, width: int | None, multiple: int) -> None:
    """Raise :class:`InputError` if a side is no positive multiple of so many pixels; ``None``: the model's own side."""
    for name, value in (("height", height), ("width", width)):
        if value is not None and (value < multiple or value % multiple):
            raise InputError(f"{name} must be a positive multiple of {multiple}, got {value}")


def check_steps(steps: int) -> None:
    """Raise :class:`InputError` for a number of sampling steps that 1000 noise levels do not have."""
    if not 1 <= steps < 1000:  # the sampler starts one level further on
        raise InputError(f"num_inference_steps must lie between 1 and 999, got {steps}")


def skipped_steps(steps: int, strength: float) -> int:
    """Return how many of the first steps an image-to-image drawing leaves out.

    Args:
        steps: of the sampler.
        strength: share of the steps that are done, in (0, 1].

    Raises:
        InputError: another strength.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength must lie above 0 and at most at 1, got {strength}")
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
    picture, hole = load_image(image), load_image(mask).convert("L")
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
