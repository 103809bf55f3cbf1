"""What every engine gives: an exported graph that takes arrays by name and gives arrays by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BaseModelError

TYPES = ("float16", "float32", "int64")
# What bindings make of errors in compiled code, of sizes and types that are not taken, and of too much memory.
BINDINGS = (RuntimeError, ValueError, TypeError, OSError, MemoryError, OverflowError)


@dataclass(frozen=True)
class Input:
    """What a graph declares of an input.

    Attributes:
        shape: sizes; ``None`` stands for any.
        dtype: one of :data:`TYPES`, or what the engine calls another.
    """

    shape: tuple[int | None, ...]
    dtype: str


class Bound(ABC):
    """A graph some of whose inputs were given for good, for the steps of one drawing. For one thread."""

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute these outputs from the inputs that are left; the arrays are the caller's own."""


class Graph(ABC):
    """One ONNX graph in an engine. Several threads may use it.

    Attributes:
        path: its file.
        inputs: that must be given, by name.
        optional: that have defaults.
        outputs: their names.
        failures: what its engine raises for a graph that it cannot compute.
    """

    failures: tuple[type[Exception], ...]
    path: Path
    inputs: dict[str, Input]
    optional: dict[str, Input]
    outputs: list[str]

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""

    @abstractmethod
    def bound(self, fixed: Mapping[str, np.ndarray]) -> Bound:
        """Return the graph with some inputs given for good."""

    def type_of(self, name: str) -> np.dtype:
        """The numpy type of an input."""
        declared = (self.inputs.get(name) or self.optional[name]).dtype
        return np.dtype(declared if declared in TYPES else "float32")

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Turn what an engine raises while it computes into a :class:`BaseModelError`."""
        try:
            yield
        except self.failures as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BaseModelError(f"{self.path} cannot be computed ({said}); export the model again") from error

    def check(self, part: str, inputs: Sequence[str], optional: Sequence[str], outputs: Sequence[str]) -> None:
        """Check that the graph takes and gives what its part of the folder should.

        Raises:
            BaseModelError: it does not.
        """
        declared = {i.dtype for i in (*self.optional.values(), *self.inputs.values())}
        right = set(inputs) == set(self.inputs) and set(optional) <= set(self.optional)
        if not (right and set(outputs) <= set(self.outputs) and declared <= set(TYPES)):
            raise BaseModelError(f"{part}/{self.path.name} takes or gives something else; export the model again")


class Engine(ABC):
    """What opens the graphs of a folder.

    Attributes:
        name: as calls name it.
        precision: in which the UNet is computed; ``None``: in the folder's.
    """

    name: str
    precision: str | None

    @abstractmethod
    def open(self, folder: Path, part: str) -> Graph:
        """Open a part of a folder.

        Raises:
            BaseModelError: a damaged graph.
        """
