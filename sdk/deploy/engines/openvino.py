"""OpenVINO: what a drawing computes many times, in the fastest type that the processor has.

UNet, decoder and encoder are compiled for the sizes of a call when they are first used, and what was compiled of up to
a gigabyte is kept on disk. What is computed once a prompt, the text encoders and keys and values, stays with ONNX
Runtime: packs are inputs with defaults there, which OpenVINO would fix.
"""

from __future__ import annotations

import logging
import os
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
_CACHE = 4 << 30  # bytes on disk of what was compiled
_FAILURES = (  # of its readers; they are kinds of their own
    frontend.GeneralFailure,
    frontend.InitializationFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)
_KEPT, _KEPT_SMALL = 2, 8  # sizes of a graph that stay compiled; each has weights of its own in memory
_AT_ONCE = 2  # parts of a batch: cores that wait for each other in every operation do less
# Of int8 each part has a copy: OpenVINO 2026.4 prepares several streams of one graph at once, and of a quantised one
# (not of others) about one in six then computes something else.
_COPIED = 1 << 28  # bytes of weights; larger ones are computed in one, which takes them no longer
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
        self._compiled: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        self._small = size <= _CACHED
        self._quantised = path.suffix == ".xml"
        self._at_once = 1 if self._quantised and size > _COPIED else _AT_ONCE
        self._batched = [name for name, declared in self.inputs.items() if declared.shape[:1] == (None,)]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""
        return dict(zip(self.outputs, self.bound({}).run(feeds, self.outputs), strict=True))

    def bound(self, fixed: Mapping[str, np.ndarray]) -> OpenVinoBound:
        """Return the graph with some inputs given for good."""
        return OpenVinoBound(self, fixed)

    def parts(self, values: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return inputs in parts that are computed side by side: halves of an even batch, else all in one."""
        rows = {values[name].shape[0] for name in self._batched}
        most = self._at_once
        count = most if len(rows) == 1 and next(iter(rows)) % most == 0 and _cores() >= most else 1
        cut = {name: np.split(values[name], count) for name in self._batched} if count > 1 else {}
        return [{name: cut[name][i] if name in cut else own for name, own in values.items()} for i in range(count)]

    def compiled(self, shapes: Mapping[str, tuple[int, ...]], at_once: int) -> list[Any]:
        """Return the graph compiled for these sizes, for each request: with all known, it takes a third of the time.

        Args:
            shapes: of the inputs.
            at_once: requests that shall run side by side.
        """
        key = (at_once, *(shapes[name] for name in self.inputs))
        copies = at_once if self._quantised else 1
        settings: dict[str, Any] = {**self._settings, "NUM_STREAMS": at_once // copies}
        if copies > 1:  # each on a core, whichever is free
            settings |= {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
        with self._lock:
            if key not in self._compiled:
                own = self._model.clone()
                own.reshape({name: list(shape) for name, shape in shapes.items()})
                while len(self._compiled) >= (_KEPT_SMALL if self._small else _KEPT):
                    self._compiled.popitem(last=False)
                self._compiled[key] = [self._compile(own, settings) for _ in range(copies)] * (at_once // copies)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _compile(self, model: Any, settings: Mapping[str, Any]) -> Any:
        if self._small:
            folder = cache_folder() / "openvino"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _bounded(folder)
                return self._core.compile_model(model, "CPU", {**settings, "CACHE_DIR": str(folder)})
            except self.failures as error:  # a full disk, another's folder; a damaged graph fails again below
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                log.warning(
                    "what OpenVINO compiles cannot be kept in %s (%s) and is compiled anew each time; point "
                    "PERSONALIZER_CACHE to a folder that can be written",
                    folder,
                    said,
                )
        return self._core.compile_model(model, "CPU", dict(settings))


class OpenVinoBound(Bound):
    """A graph whose fixed inputs are held for the steps of one drawing."""

    def __init__(self, graph: OpenVinoGraph, fixed: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.values = {name: self._cast(name, array) for name, array in fixed.items()}
        self._requests: dict[tuple[Any, ...], list[Any]] = {}

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute these outputs from the inputs that are left."""
        given = {name: self._cast(name, array) for name, array in feeds.items()}
        with self.graph.computing():
            parts = self.graph.parts({**self.values, **given})
            requests = self._ready(parts)
            for request, part in zip(requests, parts, strict=True):
                for name in given:
                    request.set_tensor(name, openvino.Tensor(part[name], shared_memory=True))
                request.start_async()
            failed = None
            for request in requests:  # all are waited for: they read memory that goes with this call
                try:
                    request.wait()
                except self.graph.failures as error:
                    failed = error
            if failed is not None:
                raise failed
            found = [[request.get_tensor(name).data for request in requests] for name in outputs]
            return [np.concatenate(each) if len(each) > 1 else each[0].copy() for each in found]

    def _ready(self, parts: Sequence[Mapping[str, np.ndarray]]) -> list[Any]:
        """What runs the graph for these sizes; made when they are first met."""
        shapes = {name: value.shape for name, value in parts[0].items()}
        key = (len(parts), *shapes.values())
        if key not in self._requests:
            compiled = self.graph.compiled(shapes, len(parts))
            made = [each.create_infer_request() for each in compiled]
            for request, part in zip(made, parts, strict=True):
                for name in self.values:
                    request.set_tensor(name, openvino.Tensor(part[name], shared_memory=True))
            self._requests = {key: made}
        return self._requests[key]

    def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
        return np.asarray(array, self.graph.type_of(name), order="C")


def _bounded(folder: Path) -> None:
    """Remove the older half of what was compiled where it is more than is kept: every size of a picture is one more."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime)
    if sum(file.stat().st_size for file in files) > _CACHE:
        for file in files[: (len(files) + 1) // 2]:
            file.unlink(missing_ok=True)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _input(declared: Any) -> Input:
    shape = tuple(size.get_length() if size.is_static else None for size in declared.partial_shape)
    name = declared.element_type.get_type_name()
    return Input(shape, _TYPES.get(name, name))
