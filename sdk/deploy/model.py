"""An exported folder: its graphs as sessions, its vocabulary, its noise levels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from ..errors import BaseModelError, InputError, MissingFileError
from .schedulers import Levels

FORMAT_VERSION = 1
MANIFEST = "personalizer_onnx.json"
_PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class Graph:
    """One ONNX graph. Arrays that stay the same over many runs are bound once, and stay on the device."""

    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        if not path.is_file():
            raise MissingFileError(f"there is no {path}; export the model again")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=list(providers))
        except Exception as error:  # onnxruntime raises types of its own for every kind of damage
            raise BaseModelError(
                f"{path} is damaged or made for another ONNX Runtime; export the model again"
            ) from error
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
        cast = np.ascontiguousarray(array, self.graph.type_of(name))
        return onnxruntime.OrtValue.ortvalue_from_numpy(cast, self.graph.device, 0)


@dataclass(frozen=True)
class ExportedModel:
    """What an exported folder holds.

    Attributes:
        graphs: by part; ``kv_projection`` in shared folders only.
        about: the manifest.
        tokenizer: of the base model.
        length: tokens in a prompt.
        levels: the noise levels.
    """

    graphs: dict[str, Graph]
    about: dict[str, Any]
    tokenizer: Tokenizer
    length: int
    levels: Levels

    @property
    def shared(self) -> bool:
        """Whether packs are added to it."""
        return self.about["kind"] == "shared"

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Channels of the latents, and pixels to a cell."""
        unet = json.loads((self.folder / "unet" / "config.json").read_text(encoding="utf-8"))
        return int(unet["in_channels"]), int(self.about["base_model"]["resolution"]) // int(unet["sample_size"])

    folder: Path = Path()

    @classmethod
    def load(cls, folder: str | Path, providers: Sequence[str] | None = None) -> ExportedModel:
        """Open a folder that ``export_onnx`` wrote.

        Raises:
            MissingFileError: no such folder, or a part is missing.
            BaseModelError: a folder of another version, or a damaged part.
            InputError: a provider that this ONNX Runtime does not have.
        """
        root = Path(folder)
        if not (root / MANIFEST).is_file():
            raise MissingFileError(f"{root} holds no {MANIFEST}; give the folder that export_onnx wrote")
        try:
            about = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
            version = about["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise BaseModelError(f"{root / MANIFEST} is damaged; export the model again") from error
        if version != FORMAT_VERSION:
            raise BaseModelError(f"{root} has format {version}, this version reads {FORMAT_VERSION}; export it again")
        chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
        missing = set(chosen) - set(onnxruntime.get_available_providers())
        if missing:
            raise InputError(
                f"this ONNX Runtime has no {', '.join(sorted(missing))}; it has "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
        parts = (*_PARTS, "kv_projection") if about["kind"] == "shared" else _PARTS
        graphs = {part: Graph(root / part / "model.onnx", chosen) for part in parts}
        tokenizer, length = _tokenizer(root / "tokenizer")
        config = root / "scheduler" / "scheduler_config.json"
        levels = Levels(json.loads(config.read_text(encoding="utf-8")))
        return cls(graphs, about, tokenizer, length, levels, root)


def _tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MissingFileError(f"there is no {file}; export the model again")
    tokenizer = Tokenizer.from_file(str(file))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    length = int(settings["model_max_length"])
    padding = settings["pad_token"]
    word = padding["content"] if isinstance(padding, dict) else padding
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(word), pad_token=word, length=length)
    return tokenizer, length
