"""An exported folder: its graphs as sessions, its vocabulary, its noise levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..concepts import Concept
from ..disk.checked import shown
from ..disk.reading import TABLE_LIMIT, read_text
from ..errors import BaseModelError, InputError
from ..model.fingerprint import BaseIdentity
from ..printable import printable
from .adapters import ROWS, Adapter
from .onnx_folder import Folder, check_folder, tokenizer_of
from .samplers.levels import Levels
from .tokenizer import PromptTokenizer

_LONGEST_PROMPT = 4096  # tokens
_MOST_CHANNELS = 64
_MOST_WIDTH = 1 << 16
_MOST_LEVELS = 12  # of a UNet, each half as wide as the one before
_NAMES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(int64)": "int64"}


class Graph:
    """One ONNX graph. Arrays that stay the same over many runs are bound once, and stay on the device."""

    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of inputs with defaults, which are meant
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))
        except Exception as error:  # ONNX Runtime has a dozen kinds of its own
            raise BaseModelError(f"{path} is damaged or wants another ONNX Runtime; export the model again") from error
        self.path = path
        self.device = "cuda" if self.session.get_providers()[0].startswith(("CUDA", "Tensorrt")) else "cpu"
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.optional = {i.name: i for i in self.session.get_overridable_initializers()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs by name; arrays are cast to the graph's types."""
        cast = {name: np.asarray(value, self.type_of(name)) for name, value in feeds.items()}
        with self.computing():
            return dict(zip(self.outputs, self.session.run(None, cast), strict=True))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Turn what ONNX Runtime raises while it computes into a :class:`BaseModelError`."""
        try:
            yield
        except Exception as error:  # it has a dozen kinds of its own
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BaseModelError(f"{self.path} cannot be computed ({said}); export the model again") from error

    def bound(self, fixed: Mapping[str, np.ndarray]) -> BoundGraph:
        """Return the graph with some inputs given for good."""
        return BoundGraph(self, fixed)

    def type_of(self, name: str) -> np.dtype:
        """The numpy type of an input."""
        declared = (self.inputs.get(name) or self.optional[name]).type
        return np.dtype(_NAMES.get(declared, "float32"))

    def check(self, part: str, inputs: Sequence[str], optional: Sequence[str], outputs: Sequence[str]) -> None:
        """Check that the graph takes and gives what its part of the folder should.

        Raises:
            BaseModelError: it does not.
        """
        declared = {name: i.type for name, i in {**self.optional, **self.inputs}.items()}
        right = set(inputs) == set(self.inputs) and set(optional) <= set(self.optional)
        right = right and set(outputs) <= set(self.outputs) and set(declared.values()) <= set(_NAMES)
        if not right:
            raise BaseModelError(f"{part}/model.onnx takes or gives something else; export the model again")


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
        with self.graph.computing():
            self.graph.session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()[0]

    def _value(self, name: str, array: np.ndarray) -> onnxruntime.OrtValue:
        cast = np.asarray(array, self.graph.type_of(name), order="C")
        return onnxruntime.OrtValue.ortvalue_from_numpy(cast, self.graph.device, 0)


@dataclass(frozen=True, repr=False)
class ExportedModel:
    """What an exported folder holds.

    Attributes:
        graphs: by part; ``kv_projection`` in shared folders only.
        folder: its manifest.
        tokenizers: of each text encoder.
        levels: the noise levels.
        channels: of the latents.
        paints_over: whether the UNet is told what stays of a picture, beside the latents.
        guidance_width: of what the UNet takes for the guidance scale; 0: nothing.
        cell: pixels to a latent, along one side.
        size_multiple: sides of pictures must be multiples of this many pixels.
    """

    graphs: dict[str, Graph]
    folder: Folder
    tokenizers: list[PromptTokenizer]
    levels: Levels
    channels: int
    paints_over: bool
    guidance_width: int
    cell: int
    size_multiple: int

    def __repr__(self) -> str:
        names = "".join(f" {c.phrase}," for c in self.concepts).rstrip(",")
        return printable(f"ExportedModel({self.folder.kind}{names}, {self.folder.dtype}, of {self.base.name})")

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The first encoder's, by which prompts are checked."""
        return self.tokenizers[0]

    @property
    def about(self) -> dict[str, Any]:
        """The manifest, checked."""
        return self.folder.about

    @property
    def shared(self) -> bool:
        """Whether packs are added to it."""
        return self.folder.kind == "shared"

    @property
    def concepts(self) -> list[Concept]:
        """Of the pack that is merged in."""
        return self.folder.concepts

    @property
    def base(self) -> BaseIdentity:
        """The base model."""
        return self.folder.base

    @property
    def resolution(self) -> int:
        """The side of a picture, in pixels, for which the model was made."""
        return self.base.resolution

    def split_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return token rows ``[N, C]`` encoder by encoder."""
        return np.split(rows, np.cumsum(self.folder.widths)[:-1], axis=-1)

    @property
    def steps(self) -> int:
        """What the base model recommends, else 50."""
        return self.folder.steps

    @property
    def rescale(self) -> float:
        """Of guidance, what the base model recommends, else 0."""
        return self.folder.guidance_rescale

    def check_adapter(self, adapter: Adapter, name: object) -> None:
        """Check that an adapter's arrays are those that the graphs take.

        Args:
            adapter: of the same base model, by its fingerprint.
            name: of its file, for the message.

        Raises:
            BaseModelError: an array that has no place, or another shape there.
        """
        takes = self.graphs["kv_projection"].optional
        rows = {}
        for encoder, part in zip(self.folder.encoders, self.split_rows(adapter.rows), strict=True):
            name_of = f"{ROWS} of {encoder}"
            takes, rows[name_of] = takes | {name_of: self.graphs[encoder].optional[ROWS]}, part
        for key, array in {**adapter.weights, **rows}.items():
            if key not in takes and key.endswith((".down", ".up")):
                raise BaseModelError(
                    f"the pack {name} is one of low rank, which this export is too old for; export the base model again"
                )
            if key not in takes or not _fits(array.shape, takes[key].shape):
                wanted = list(takes[key].shape) if key in takes else "none"
                raise BaseModelError(
                    f"the pack {name} belongs to another base model: {key} is {list(array.shape)} instead of {wanted}"
                )

    @classmethod
    def load(cls, folder: str | Path, providers: Sequence[str] | None = None) -> ExportedModel:
        """Open a folder that ``export_onnx`` wrote.

        Raises:
            MissingFileError: no such folder, or a part is missing.
            BaseModelError: a folder of another version, or a damaged part.
            InputError: a provider that this ONNX Runtime does not have.
        """
        opened = check_folder(folder)
        chosen = _known(providers)
        unet = opened.read_table("unet/config.json")
        vae = opened.read_table("vae_decoder/config.json")
        cell = 2 ** max(len(vae.entries("block_out_channels", _MOST_LEVELS)) - 1, 0)
        if unet.whole("sample_size", 1, opened.base.resolution) * cell != opened.base.resolution:
            raise opened.fail(f"the resolution {opened.base.resolution} is not that of the parts")
        # Of 8, too: torch's engine asks for it, and both take the same sizes.
        multiple = lcm(8, cell * 2 ** max(len(unet.entries("block_out_channels", _MOST_LEVELS)) - 1, 0))
        taken = unet.whole("in_channels", 1, _MOST_CHANNELS)
        channels = vae.whole("latent_channels", 1, _MOST_CHANNELS) if "latent_channels" in vae else taken
        paints_over = taken == 2 * channels + 1
        told = unet.values.get("time_cond_proj_dim")
        width = 0 if told is None else unet.whole("time_cond_proj_dim", 4, _MOST_WIDTH)
        levels = Levels(opened.read_table("scheduler/scheduler_config.json").values)
        tokenizers = [_tokenizer(opened, encoder) for encoder in opened.encoders]
        graphs = {part: Graph(opened.root / part / "model.onnx", chosen) for part in opened.parts}
        _check_graphs(graphs, opened, channels, taken, width)
        return cls(graphs, opened, tokenizers, levels, channels, paints_over, width, cell, multiple)


def _fits(shape: Sequence[int], declared: Sequence[Any]) -> bool:
    """Whether an array has the shape that a graph declares, where names stand for any size."""
    return len(shape) == len(declared) and all(
        not isinstance(d, int) or d == s for s, d in zip(shape, declared, strict=True)
    )


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


def _check_graphs(graphs: Mapping[str, Graph], folder: Folder, channels: int, taken: int, width: int) -> None:
    weights = [f"{layer}.to_{which}.weight" for layer in folder.layers for which in "kv"]
    projected = [f"{layer}.{which}" for layer in folder.layers for which in ("key", "value")]
    states = ["encoder_hidden_states"]
    shared = folder.kind == "shared"
    several = len(folder.encoders) > 1
    for index, encoder in enumerate(folder.encoders):
        gives = ["states", "pooled"][: index + 1] if several else ["last_hidden_state", "pooler_output"]
        graphs[encoder].check(encoder, ["input_ids"], [ROWS] if shared else [], gives)
    further = [*(["text_embeds", "time_ids"] if several else []), *(["timestep_cond"] if width else [])]
    takes = ["sample", "timestep", *(projected if shared else states), *further]
    graphs["unet"].check("unet", takes, [], ["out_sample"])
    graphs["vae_decoder"].check("vae_decoder", ["latent_sample"], [], ["sample"])
    graphs["vae_encoder"].check("vae_encoder", ["sample"], [], ["latent_parameters"])
    if shared:
        graphs["kv_projection"].check("kv_projection", states, weights, projected)
    there = (_size(graphs["unet"], "sample", 1), _size(graphs["vae_decoder"], "latent_sample", 1))
    if there != (taken, channels) or taken not in (channels, 2 * channels + 1):
        raise folder.fail(f"the graphs take {there} channels instead of {(taken, channels)}")
    if width and _size(graphs["unet"], "timestep_cond", 1) != width:
        raise folder.fail("the UNet takes the guidance scale in another width")
    if _size(graphs["kv_projection" if shared else "unet"], states[0], -1) != folder.base.context:
        raise folder.fail("the graphs take text states of another width")


def _size(graph: Graph, name: str, axis: int) -> object:
    """A declared size of an input; ``None``: it has no such axis."""
    shape = graph.inputs[name].shape
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _tokenizer(folder: Folder, encoder: str) -> PromptTokenizer:
    name = tokenizer_of(encoder)
    settings = folder.read_table(f"{name}/tokenizer_config.json")
    longest = folder.read_table(f"{encoder}/config.json").whole("max_position_embeddings", 2, _LONGEST_PROMPT)
    nested = settings.is_table("pad_token")
    padding = settings.table("pad_token").text("content") if nested else settings.text("pad_token")
    definition = folder.root / name / "tokenizer.json"
    return PromptTokenizer(
        read_text(definition, limit=TABLE_LIMIT, kind=BaseModelError, advice="export the model again"),
        settings.whole("model_max_length", 2, longest),
        padding,
        folder.table_size,
    )
