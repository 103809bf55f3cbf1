"""An exported folder: its graphs as sessions, its vocabulary, its noise levels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ..concepts import Concept
from ..errors import BaseModelError, InputError, MissingFileError
from ..files import sha256_file
from ..model.fingerprint import BaseIdentity
from .onnx_folder import FORMAT_VERSION, MANIFEST
from .schedulers import Levels
from .tokenizer import PromptTokenizer

_PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
_SMALL = 1 << 20  # bytes; smaller files are hashed whenever a folder is opened, graphs when it is verified
_LOADING_ERRORS = tuple(
    getattr(ort_errors, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "RuntimeException")
)


class Graph:
    """One ONNX graph. Arrays that stay the same over many runs are bound once, and stay on the device."""

    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of inputs with defaults, which are meant
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))
        except _LOADING_ERRORS as error:
            raise BaseModelError(f"{path} is damaged or wants another ONNX Runtime; export the model again") from error
        self.device = "cuda" if self.session.get_providers()[0].startswith(("CUDA", "Tensorrt")) else "cpu"
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.optional = {i.name: i for i in self.session.get_overridable_initializers()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""
        cast = {name: np.asarray(value, self.type_of(name)) for name, value in feeds.items()}
        return dict(zip(self.outputs, self.session.run(None, cast), strict=True))

    def bound(self, fixed: Mapping[str, np.ndarray]) -> BoundGraph:
        """Return the graph with some inputs given for good."""
        return BoundGraph(self, fixed)

    def type_of(self, name: str) -> np.dtype:
        """The numpy type of an input."""
        declared = (self.inputs.get(name) or self.optional[name]).type
        return np.dtype({"tensor(float16)": np.float16, "tensor(int64)": np.int64}.get(declared, np.float32))


class BoundGraph:
    """A graph whose fixed inputs were copied to its device once."""

    def __init__(self, graph: Graph, fixed: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.values = {name: self._value(name, array) for name, array in fixed.items()}

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute the first output."""
        binding = self.graph.session.io_binding()
        for name, value in self.values.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self._value(name, array))
        binding.bind_output(self.graph.outputs[0], "cpu")
        self.graph.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def _value(self, name: str, array: np.ndarray) -> onnxruntime.OrtValue:
        cast = np.asarray(array, self.graph.type_of(name), order="C")
        return onnxruntime.OrtValue.ortvalue_from_numpy(cast, self.graph.device, 0)


@dataclass(frozen=True)
class ExportedModel:
    """What an exported folder holds.

    Attributes:
        graphs: by part; ``kv_projection`` in shared folders only.
        about: the manifest.
        tokenizer: the base model's.
        levels: the noise levels.
        channels: of the latents.
        cell: pixels to a latent, along one side.
        size_multiple: sides of pictures must be multiples of this many pixels.
    """

    graphs: dict[str, Graph]
    about: dict[str, Any]
    tokenizer: PromptTokenizer
    levels: Levels
    channels: int
    cell: int
    size_multiple: int

    @property
    def shared(self) -> bool:
        """Whether packs are added to it."""
        return self.about["kind"] == "shared"

    @property
    def concepts(self) -> list[Concept]:
        """Of the pack that is merged in."""
        return [Concept(c["class"], c["token"]) for c in self.about["concepts"]]

    @property
    def base(self) -> BaseIdentity:
        """The base model."""
        return BaseIdentity.from_dict(self.about["base_model"])

    @property
    def resolution(self) -> int:
        """The side of a picture, in pixels, for which the model was made."""
        return self.base.resolution

    @classmethod
    def load(cls, folder: str | Path, providers: Sequence[str] | None = None) -> ExportedModel:
        """Open a folder that ``export_onnx`` wrote.

        Raises:
            MissingFileError: no such folder, or a part is missing.
            BaseModelError: a folder of another version, or a damaged part.
            InputError: a provider that this ONNX Runtime does not have.
        """
        root = Path(folder)
        about = check_folder(root)
        chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
        missing = set(chosen) - set(onnxruntime.get_available_providers())
        if missing:
            raise InputError(
                f"this ONNX Runtime has no {', '.join(sorted(missing))}; it has "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
        parts = (*_PARTS, "kv_projection") if about["kind"] == "shared" else _PARTS
        graphs = {part: Graph(root / part / "model.onnx", chosen) for part in parts}
        unet = _read(root / "unet" / "config.json")
        cell = int(about["base_model"]["resolution"]) // int(unet["sample_size"])
        levels = Levels(_read(root / "scheduler" / "scheduler_config.json"))
        multiple = cell * 2 ** (len(unet["block_out_channels"]) - 1)
        tokenizer = _tokenizer(root / "tokenizer", about)
        return cls(graphs, about, tokenizer, levels, int(unet["in_channels"]), cell, multiple)


def check_folder(root: Path, *, all_hashes: bool = False) -> dict[str, Any]:
    """Check that an exported folder is whole, and return its manifest.

    Args:
        root: the folder.
        all_hashes: hash the graphs too, which reads gigabytes of a large model.

    Raises:
        MissingFileError: no such folder, or a file is missing.
        BaseModelError: a folder of another version, or a changed file.
    """
    if not (root / MANIFEST).is_file():
        raise MissingFileError(f"{root} holds no {MANIFEST}; give the folder that export_onnx wrote")
    try:
        about = _read(root / MANIFEST)
        version, files = about["format_version"], about["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"{root / MANIFEST} is damaged; export the model again") from error
    if version != FORMAT_VERSION:
        raise BaseModelError(f"{root} has format {version}, this version reads {FORMAT_VERSION}; export it again")
    for name, expected in files.items():
        file = root / name
        if not file.is_file():
            raise MissingFileError(f"there is no {file}; export the model again")
        size = file.stat().st_size
        hashed = all_hashes or size < _SMALL
        if size != expected["bytes"] or (hashed and sha256_file(file) != expected["sha256"]):
            raise BaseModelError(f"{file} is damaged (it is not the file that was written); export the model again")
    return about


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _tokenizer(folder: Path, about: dict[str, Any]) -> PromptTokenizer:
    settings = _read(folder / "tokenizer_config.json")
    padding = settings["pad_token"]
    return PromptTokenizer(
        (folder / "tokenizer.json").read_text(encoding="utf-8"),
        int(settings["model_max_length"]),
        padding["content"] if isinstance(padding, dict) else padding,
        int(about["table_size"]),
    )
