"""What workers are given: how to load the base model, and jobs. Light, for who hands them out need not draw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .jobs import Job, contents, job_id


@dataclass(frozen=True)
class Loading:
    """How workers load the base model, see :meth:`sdk.Personalizer.from_pretrained`."""

    model: str | Path = "bundled"
    device: Any = None
    dtype: Any = None
    memory: float | str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A job that is to be done.

    Attributes:
        job: what is asked for.
        id: its id.
        base: what of that is the base model's, see :func:`sdk.fleet.jobs.job_id`.
        files: the contents of its picture and masks, where a worker may not see the files.
    """

    job: Job
    id: str
    base: dict[str, str]
    files: tuple[bytes, ...] | None = None

    def carrying(self) -> Task:
        """Return the same with the contents of its files.

        Raises:
            SdkError: they cannot be read, or are no longer what they were.
        """
        found = replace(self, files=tuple(contents(self.job)))
        found.check()
        return found

    def check(self) -> None:
        """Raise :class:`InputError` if a picture is no longer what it was: its pack would have another id."""
        if job_id(self.job, self.base, self.files) != self.id:
            raise InputError("a picture changed while the fleet ran; call it again")
