"""What a hostile input is: a name that makes it again, something to run, and what must not come of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assets import Assets

# What a case may end in, besides an error of the package, which is always right.
ANY = "any"  # success too, if its result is honest
REFUSE = "refuse"  # success means that something was not noticed
NOTE = "refuse or note"  # success is right if something was said


class Silent(Exception):
    """A result that is wrong, and nobody was told."""


@dataclass(frozen=True)
class Place:
    """The folder of one case; what is tested works in it and may write to three of its folders.

    Attributes:
        root: of the case.
        assets: valid inputs, shared by all cases; nobody may change them.
    """

    root: Path
    assets: Assets

    @property
    def inputs(self) -> Path:
        """Where the hostile files are; not to be written to."""
        return self.root / "in"

    @property
    def out(self) -> Path:
        """Where results go."""
        return self.root / "out"

    @property
    def cache(self) -> Path:
        """``PERSONALIZER_CACHE``."""
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        """``TMPDIR``; nothing may stay in it."""
        return self.root / "tmp"

    @property
    def home(self) -> Path:
        """``HOME``; not to be written to."""
        return self.root / "home"

    @property
    def cwd(self) -> Path:
        """The working directory; not to be written to."""
        return self.root / "cwd"

    def make(self) -> Place:
        """Create the folders."""
        for folder in (self.inputs, self.out, self.cache, self.temporary, self.home, self.cwd):
            folder.mkdir(parents=True)
        (self.cwd / "precious.txt").write_text("not to be touched")
        return self


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        what: was done to a valid input, for a person.
        run: hands it to the product; returns notes that the result carries, or ``None``.
        expect: ``ANY``, ``REFUSE`` or ``NOTE``.
        allowed: folders that may be written to, besides the place's.
    """

    what: str
    run: Callable[[], Any]
    expect: str = ANY
    allowed: tuple[Path, ...] = field(default=())


Maker = Callable[[random.Random, Place], Case]


def random_of(kind: str, seed: int, index: int) -> random.Random:
    """The generator of one case: it depends on nothing else, so that a case can be run alone."""
    return random.Random(f"{kind} {seed} {index}")
