"""An exported folder: its graphs as sessions, its vocabulary, its noise levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np

from ..concepts import Concept
from ..disk.reading import TABLE_LIMIT, read_text
from ..errors import BaseModelError, InputError
from ..model.fingerprint import BaseIdentity
from ..printable import printable
from .adapters import ROWS, Adapter
from .engines import choose_engine
from .engines.graph import Engine, Graph
from .onnx_folder import SHALLOW, Folder, check_folder, tokenizer_of
from .samplers.levels import Levels
from .tokenizer import PromptTokenizer

_LONGEST_PROMPT = 4096  # tokens
_MOST_CHANNELS = 64
_MOST_WIDTH = 1 << 16
_MOST_LEVELS = 12  # of a UNet, each half as wide as the one before


@dataclass(frozen=True, repr=False)
class ExportedModel:
    """What an exported folder holds.

    Attributes:
        engine: what computes it.
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

    engine: Engine
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
        return printable(f"ExportedModel({self.folder.kind}{names}, {self.computed}, of {self.base.name})")

    @property
    def computed(self) -> str:
        """By what and in what type: ``"openvino bf16"``, ``"onnxruntime float32"``."""
        return f"{self.engine.name} {self.engine.precision or self.folder.dtype}"

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
        """Check that an adapter belongs to this base model and its arrays are those that the graphs take.

        Args:
            adapter: the pack.
            name: of its file, for the message.

        Raises:
            InputError: a merged export, which takes none.
            BaseModelError: another base model by its fingerprint, an array that has no place, or another shape there.
        """
        if not self.shared:
            raise InputError("this export has its pack merged in; export with shared=True to add packs")
        why = self.base.difference(adapter.base)
        if why is not None:
            raise BaseModelError(f"the pack {name} belongs to another base model: {why}; export that one")
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
    def load(
        cls,
        folder: str | Path,
        providers: Sequence[str] | None = None,
        engine: str = "auto",
        precision: str = "auto",
    ) -> ExportedModel:
        """Open a folder that ``export_onnx`` wrote; see :meth:`sdk.deploy.OnnxPersonalizer.from_pretrained`."""
        opened = check_folder(folder)
        chosen = choose_engine(engine, precision, providers, opened.has_int8)
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
        graphs = {part: chosen.open(opened.root, part) for part in opened.parts}
        _check_graphs(graphs, opened, channels, taken, width)
        return cls(chosen, graphs, opened, tokenizers, levels, channels, paints_over, width, cell, multiple)


def _fits(shape: Sequence[int], declared: Sequence[Any]) -> bool:
    """Whether an array has the shape that a graph declares, where names stand for any size."""
    return len(shape) == len(declared) and all(
        not isinstance(d, int) or d == s for s, d in zip(shape, declared, strict=True)
    )


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
    graphs["unet"].check("unet", takes, [], ["out_sample", *(["deep_features"] if folder.has_shallow else [])])
    if folder.has_shallow:
        own = [name for name in graphs[SHALLOW].inputs if name in takes]
        graphs[SHALLOW].check(SHALLOW, ["deep_features", *own], [], ["out_sample"])
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
