"""What draws for the server: an exported folder without torch, or torch. Rows of any packs in one batch."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...runtime import Progress


@dataclass(frozen=True, eq=False)
class Edit:
    """The picture that a drawing starts from; each is only equal to itself.

    Attributes:
        picture: the centre square is used.
        hole: white where it is redrawn; ``None``: all of it is drawn anew.
        strength: share of the steps that are done without a hole.
    """

    picture: Image.Image
    hole: Image.Image | None
    strength: float


@dataclass(frozen=True)
class How:
    """What rows must have in common to be drawn in one batch; ``None``: what the model recommends.

    Attributes:
        width: pixels.
        height: likewise.
        steps: of the sampler.
        speed: see :meth:`sdk.Personalizer.generate`, as the others.
        scheduler: name.
        guidance_scale: of classifier-free guidance.
        edit: where it starts from a picture.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    speed: str = "exact"
    scheduler: str | None = None
    guidance_scale: float | None = None
    edit: Edit | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """One picture: what of it may differ within a batch.

    Attributes:
        prompt: what to draw.
        negative_prompt: what to steer away from.
        pack: what :meth:`Painter.read_pack` returned, or ``None``.
        seed: of its noise.
    """

    prompt: str
    negative_prompt: str
    pack: Any
    seed: int


class Painter(ABC):
    """A base model that draws.

    Args:
        model: a :class:`sdk.Personalizer` or a :class:`sdk.deploy.OnnxPersonalizer`, which take the same keywords.

    Attributes:
        suffix: of a pack's file; empty: packs are folders.
        resolution: side of the model's own pictures, pixels.
        most_at_once: pictures that are worth drawing in one batch.
    """

    suffix: str
    resolution: int
    most_at_once: int

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def base(self) -> str:
        """The base model's name."""

    @abstractmethod
    def read_pack(self, path: Path) -> Any:
        """Read a pack and check that it belongs to this model.

        Raises:
            SdkError: it is damaged, another model's, or no pack.
        """

    @abstractmethod
    def size_of(self, pack: Any) -> int:
        """Return how many bytes a pack takes in memory."""

    def check(self, prompt: str, negative_prompt: str, pack: Any) -> list[str]:
        """Check a prompt; return notes on it.

        Raises:
            InputError: what cannot be drawn.
        """
        return self.model.check_prompt(prompt, concepts=pack, negative_prompt=negative_prompt)

    def draw(
        self, rows: Sequence[Row], how: How, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> list[Image.Image]:
        """Draw one picture a row.

        Raises:
            SdkError: what cannot be drawn.
            Cancelled: ``cancel`` was set.
        """
        options: dict[str, Any] = {
            "num_inference_steps": how.steps,
            "speed": how.speed,
            "scheduler": how.scheduler,
            "guidance_scale": how.guidance_scale,
            "progress": progress,
            "cancel": cancel,
        }
        if how.edit is None:
            return self.model.generate(
                [row.prompt for row in rows],
                concepts=[row.pack for row in rows],
                negative_prompt=[row.negative_prompt for row in rows],
                seed=[row.seed for row in rows],
                width=how.width,
                height=how.height,
                **options,
            ).images
        # All rows are of one request, because no other has this picture, and their seeds follow each other.
        first = rows[0]
        options |= {"concepts": first.pack, "negative_prompt": first.negative_prompt, "seed": first.seed}
        options |= {"num_images": len(rows)}
        if how.edit.hole is None:
            return self.model.img2img(how.edit.picture, first.prompt, strength=how.edit.strength, **options).images
        return self.model.inpaint(how.edit.picture, how.edit.hole, first.prompt, **options).images
