"""Drawing again what did not come out: pictures are looked at, and the faulty ones drawn with other noise.

A model that draws a prompt rightly in three of four pictures does so in 63 of 64 with three attempts, if someone can
tell which are right. Whoever chooses pictures so must not measure with the same eyes: the choice would be counted as
the model's merit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from ..errors import InputError
from ..pack import ConceptPack
from ..rules.arguments import shown, whole
from ..runtime import Cancelled
from .requests import Request

MOST_ATTEMPTS = 100
_SEEDS = 2**63


class Checker(Protocol):
    """Looks at drawn pictures."""

    def faults(self, images: Sequence[Image.Image], prompt: str, pack: ConceptPack) -> list[list[str]]:
        """Say what is wrong with pictures of one prompt: for each picture a few words a fault, none if it is right."""


@dataclass(frozen=True)
class Attempts:
    """How often a picture may be drawn, and who says whether it is right.

    Attributes:
        most: drawings of one picture, the first one counted.
        checker: ``None`` where pictures are drawn once and nobody looks.
    """

    most: int = 1
    checker: Checker | None = None


ONE = Attempts()


def checked_attempts(attempts: Any, checker: Any, generator: Any, default: Callable[[], Checker]) -> Attempts:
    """Return how often pictures may be drawn.

    Args:
        attempts: as a call was given it, like the next two.
        checker: ``None``: the default one, if there is anything to choose.
        generator: of the noise; a list of them has noise for one drawing of each picture.
        default: makes the default checker.

    Raises:
        InputError: another number or type, or a list of generators.
    """
    most = whole(attempts, "attempts", 1, MOST_ATTEMPTS)
    if checker is not None and not callable(getattr(checker, "faults", None)):
        raise InputError(f"checker must be a Checker (sdk.sampling), got {shown(checker)}")
    if most == 1 and checker is None:
        return ONE
    if most > 1 and isinstance(generator, (list, tuple)):
        raise InputError("attempts above 1 need fresh noise each: give seed, or one generator, instead of a list")
    return Attempts(most, default() if checker is None else checker)


@dataclass
class Tried:
    """Pictures, and what it took to get them.

    Attributes:
        images: the best of each, the first among equals.
        attempts: drawings of each.
        faults: what is still wrong with each.
    """

    images: list[Image.Image]
    attempts: list[int]
    faults: list[list[str]]

    def notes(self, most: int) -> list[str]:
        """Return a line for each picture that is still faulty."""
        tries = "at the first attempt" if most == 1 else f"after {most} attempts"
        return [f"picture {i}: {', '.join(faults)}, {tries}" for i, faults in enumerate(self.faults) if faults]


def prepare(requests: Sequence[Request], checker: Checker) -> None:
    """Let a checker that has ``prepare(prompt, pack)`` look at what it needs, or refuse, before anything is drawn."""
    ready = getattr(checker, "prepare", None)
    if callable(ready):
        for request in requests:
            if request.pack is not None:
                ready(request.prompt, request.pack)


def tried(
    requests: Sequence[Request],
    images: Sequence[Image.Image],
    draw: Callable[[list[Request]], list[Image.Image]],
    attempts: Attempts,
) -> Tried:
    """Look at pictures and draw the faulty ones again, each with noise that no other picture of the call has.

    Attempt ``k`` of picture ``i`` has the seed of its first plus ``k`` times the number of pictures in the call, or
    the next one that no picture has had.

    Args:
        requests: one per picture.
        images: the first drawings.
        draw: draws further ones.
        attempts: how many, and who looks.

    Raises:
        Cancelled: while drawing again; its ``finished`` has the best pictures so far.
    """
    assert attempts.checker is not None
    used = {request.seed for request in requests}
    best = Tried(list(images), [1] * len(images), _faults(requests, images, attempts.checker))
    for attempt in range(1, attempts.most):
        again = [i for i, faults in enumerate(best.faults) if faults]
        if not again:
            break
        asked = []
        for i in again:
            seed = (requests[i].seed + attempt * len(requests)) % _SEEDS
            while seed in used:
                seed = (seed + 1) % _SEEDS
            used.add(seed)
            asked.append(replace(requests[i], seed=seed))
        try:
            drawn = draw(asked)
        except Cancelled as stopped:
            stopped.finished = dict(enumerate(best.images))
            raise
        for i, image, faults in zip(again, drawn, _faults(asked, drawn, attempts.checker), strict=True):
            best.attempts[i] += 1
            if len(faults) < len(best.faults[i]):
                best.images[i], best.faults[i] = image, faults
    return best


def _faults(requests: Sequence[Request], images: Sequence[Image.Image], checker: Checker) -> list[list[str]]:
    """What is wrong with each picture; nothing can be wrong with those that no pack was used for."""
    found: list[list[str]] = [[] for _ in images]
    groups: dict[tuple[str, int], list[int]] = {}
    for index, request in enumerate(requests):
        if request.pack is not None:
            groups.setdefault((request.prompt, id(request.pack)), []).append(index)
    for (prompt, _), group in groups.items():
        pack = requests[group[0]].pack
        assert pack is not None
        said = list(checker.faults([images[i] for i in group], prompt, pack))
        if len(said) != len(group) or not all(isinstance(each, (list, tuple)) for each in said):
            raise InputError(
                f"checker must return a list of faults for each of {len(group)} pictures, got {shown(said)}"
            )
        for index, faults in zip(group, said, strict=True):
            found[index] = list(faults)
    return found
