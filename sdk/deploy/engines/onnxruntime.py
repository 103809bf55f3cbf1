"""ONNX Runtime: every part of a folder, in the type in which it was exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from ...disk.checked import shown
from ...errors import BaseModelError, InputError
from .graph import BINDINGS, Bound, Engine, Graph, Input

# ONNX Runtime has a dozen kinds of its own, each derived from Exception alone.
_OWN = tuple(kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception))
_NAMES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(int64)": "int64"}


class OnnxRuntime(Engine):
    """ONNX Runtime.

    Args:
        providers: its own, in order of preference; ``None``: the CPU's.

    Raises:
        InputError: a provider that this ONNX Runtime does not have.
    """

    name = "onnxruntime"
    precision = None

    def __init__(self, providers: Sequence[str] | None = None) -> None:
        self.providers = _known(providers)

    def open(self, folder: Path, part: str) -> OrtGraph:
        """Open a part of a folder."""
        return OrtGraph(folder / part / "model.onnx", self.providers)


class OrtGraph(Graph):
    """A graph as a session. Arrays that stay the same over many runs are bound once, and stay on the device."""

    failures = (*_OWN, *BINDINGS)

    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of inputs with defaults, which are meant
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))
        except self.failures as error:
            raise BaseModelError(f"{path} is damaged or wants another ONNX Runtime; export the model again") from error
        self.path = path
        self.device = "cuda" if self.session.get_providers()[0].startswith(("CUDA", "Tensorrt")) else "cpu"
        self.inputs = {i.name: _input(i) for i in self.session.get_inputs()}
        self.optional = {i.name: _input(i) for i in self.session.get_overridable_initializers()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""
        cast = {name: np.asarray(value, self.type_of(name)) for name, value in feeds.items()}
        with self.computing():
            return dict(zip(self.outputs, self.session.run(None, cast), strict=True))

    def bound(self, fixed: Mapping[str, np.ndarray]) -> OrtBound:
        """Return the graph with some inputs given for good."""
        return OrtBound(self, fixed)


class OrtBound(Bound):
    """A graph whose fixed inputs were copied to its device once."""

    def __init__(self, graph: OrtGraph, fixed: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.values = {name: self._value(name, array) for name, array in fixed.items()}

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute these outputs, and no others."""
        binding = self.graph.session.io_binding()
        for name, value in self.values.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self._value(name, array))
        for name in outputs:
            binding.bind_output(name, "cpu")
        with self.graph.computing():
            self.graph.session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()

    def _value(self, name: str, array: np.ndarray) -> onnxruntime.OrtValue:
        cast = np.asarray(array, self.graph.type_of(name), order="C")
        return onnxruntime.OrtValue.ortvalue_from_numpy(cast, self.graph.device, 0)


def _input(declared: onnxruntime.NodeArg) -> Input:
    shape = tuple(size if isinstance(size, int) else None for size in declared.shape)
    return Input(shape, _NAMES.get(declared.type, declared.type))


def _known(providers: Sequence[str] | None) -> list[str]:
    """The providers that were asked for, all of which this ONNX Runtime has."""
    if providers is None:
        return ["CPUExecutionProvider"]
    there = onnxruntime.get_available_providers()
    chosen = [providers] if isinstance(providers, str) else list(providers)
    missing = [name for name in chosen if name not in there]
    if missing or not chosen:
        asked = ", ".join(name if isinstance(name, str) else shown(name) for name in missing) or "no provider"
        raise InputError(f"this ONNX Runtime has no {asked}; it has {', '.join(there)}")
    return chosen
