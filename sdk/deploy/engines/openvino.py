"""OpenVINO: what a drawing computes many times, in the fastest type that the processor has.

UNet, decoder and encoder are compiled for the sizes of a call when they are first used, and what was compiled of up to
a gigabyte is kept on disk. What is computed once a prompt, the text encoders and keys and values, stays with ONNX
Runtime: packs are inputs with defaults there, which OpenVINO would fix.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import frontend

from ...disk.caching import cache_folder
from ...errors import BaseModelError, InputError
from ..onnx_folder import INT8_UNET
from .graph import BINDINGS, Bound, Engine, Graph, Input
from .onnxruntime import OnnxRuntime

_TYPES = {"f16": "float16", "f32": "float32", "i64": "int64"}
_CACHED = 1 << 30  # bytes of weights; reading more from a disk takes longer than compiling them
_FAILURES = (  # of its readers; they are kinds of their own
    frontend.GeneralFailure,
    frontend.InitializationFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)
_KEPT = 2  # sizes of a graph that stay compiled; each has weights of its own in memory
log = logging.getLogger("sdk")


class OpenVino(Engine):
    """OpenVINO on the CPU.

    Args:
        precision: one of :data:`sdk.deploy.engines.PRECISIONS`; ``"auto"``: int8 if the folder has it, else bf16 if the
            processor computes in it, else fp32. With int8 what is not quantised is computed in bf16 or fp32 likewise.
        has_int8: whether the folder holds a quantised UNet.

    Raises:
        InputError: a precision that the folder or this processor does not have.
    """

    name = "openvino"

    def __init__(self, precision: str, has_int8: bool) -> None:
        self._core = openvino.Core()
        low = "bf16" if "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        if precision == "auto":
            precision = "int8" if has_int8 else low
        if precision == "int8" and not has_int8:
            raise InputError("this folder holds no int8 UNet; export with --int8, or take precision='auto'")
        if precision == "bf16" and low != "bf16":
            raise InputError("this processor does not compute in bf16; take precision='auto'")
        self.precision = precision
        hint = {"fp32": "f32", "bf16": "bf16"}[low if precision == "int8" else precision]
        self._settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        self._once = OnnxRuntime()

    def open(self, folder: Path, part: str) -> Graph:
        """Open a part of a folder, in OpenVINO if a drawing computes it many times."""
        if not part.startswith(("unet", "vae")):
            return self._once.open(folder, part)
        file = folder / (INT8_UNET if part == "unet" and self.precision == "int8" else f"{part}/model.onnx")
        return OpenVinoGraph(self._core, file, self._settings)


class OpenVinoGraph(Graph):
    """A graph, and what it was compiled to."""

    failures = (*BINDINGS, *_FAILURES)
    optional: dict[str, Input] = {}  # it has none

    def __init__(self, core: Any, path: Path, settings: Mapping[str, str]) -> None:
        try:
            # Read as what it is: looking for its kind, OpenVINO's readers of others print what they find in it.
            reader = frontend.FrontEndManager().load_by_framework("ir" if path.suffix == ".xml" else "onnx")
            self._model = reader.convert(reader.load(str(path)))
            if not self._model.inputs:
                raise ValueError("it is empty")
            self.inputs = {i.any_name: _input(i) for i in self._model.inputs}
            self.outputs = [o.any_name for o in self._model.outputs]
        except self.failures as error:
            raise BaseModelError(f"{path} is damaged or wants another OpenVINO; export the model again") from error
        self.path = path
        self._core, self._settings = core, dict(settings)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""
        return dict(zip(self.outputs, self.bound({}).run(feeds, self.outputs), strict=True))

    def bound(self, fixed: Mapping[str, np.ndarray]) -> OpenVinoBound:
        """Return the graph with some inputs given for good."""
        return OpenVinoBound(self, fixed)

    def compiled(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """Return the graph compiled for these sizes: with all of them known, it takes a third of the time."""
        key = tuple(shapes[name] for name in self.inputs)
        with self._lock:
            if key not in self._compiled:
                own = self._model.clone()
                own.reshape({name: list(shape) for name, shape in shapes.items()})
                while len(self._compiled) >= _KEPT:
                    self._compiled.popitem(last=False)
                self._compiled[key] = self._compile(own)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _compile(self, model: Any) -> Any:
        if sum(file.stat().st_size for file in self.path.parent.iterdir()) <= _CACHED:
            folder = cache_folder() / "openvino"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                return self._core.compile_model(model, "CPU", {**self._settings, "CACHE_DIR": str(folder)})
            except self.failures as error:  # a full disk, another's folder; a damaged graph fails again below
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                log.warning(
                    "what OpenVINO compiles cannot be kept in %s (%s) and is compiled anew each time; point "
                    "PERSONALIZER_CACHE to a folder that can be written",
                    folder,
                    said,
                )
        return self._core.compile_model(model, "CPU", self._settings)


class OpenVinoBound(Bound):
    """A graph whose fixed inputs are held for the steps of one drawing."""

    def __init__(self, graph: OpenVinoGraph, fixed: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.values = {name: self._cast(name, array) for name, array in fixed.items()}
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute these outputs from the inputs that are left."""
        given = {name: self._cast(name, array) for name, array in feeds.items()}
        with self.graph.computing():
            request = self._request({**self.values, **given})
            for name, array in given.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            request.infer()
            return [request.get_tensor(name).data.copy() for name in outputs]

    def _request(self, values: Mapping[str, np.ndarray]) -> Any:
        """What runs the graph for these sizes; made when they are first met."""
        shapes = {name: value.shape for name, value in values.items()}
        key = tuple(shapes.values())
        if key not in self._requests:
            request = self.graph.compiled(shapes).create_infer_request()
            for name, array in self.values.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            self._requests = {key: request}
        return self._requests[key]

    def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
        return np.asarray(array, self.graph.type_of(name), order="C")


def _input(declared: Any) -> Input:
    shape = tuple(size.get_length() if size.is_static else None for size in declared.partial_shape)
    name = declared.element_type.get_type_name()
    return Input(shape, _TYPES.get(name, name))
