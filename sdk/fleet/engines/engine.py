"""What a fleet needs of whatever runs its workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import SdkError
from ..outcomes import Outcome
from ..tasks import Task


@dataclass(frozen=True)
class Ready:
    """A worker says that its model is loaded.

    Attributes:
        base: see :class:`sdk.fleet.worker.Worker`.
    """

    base: dict[str, str]


@dataclass(frozen=True)
class Died:
    """A worker is no more.

    Attributes:
        by_job: whether its job may be why; a machine that was switched off is no job's doing.
    """

    by_job: bool = True


Said = Ready | Died | Outcome | SdkError


class Engine(ABC):
    """Runs workers somewhere. A worker loads the base model and says that it is ready, or an error and ends; then it
    does what it is given, one task after the other."""

    @property
    @abstractmethod
    def most(self) -> int:
        """Workers that there may be now."""

    @abstractmethod
    def begin(self) -> Any:
        """Let a worker begin, and return what it is known by."""

    @abstractmethod
    def give(self, worker: Any, task: Task) -> None:
        """Give a task to a worker that has none; if it died meanwhile, :meth:`heard` says so."""

    @abstractmethod
    def heard(self, workers: Sequence[Any], seconds: float) -> list[tuple[Any, Said]]:
        """Wait so long at most, and return what workers said."""

    @abstractmethod
    def end(self, workers: Sequence[Any]) -> None:
        """Let workers end: idle ones at once, others when their checkpoint is saved."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the engine itself holds."""
