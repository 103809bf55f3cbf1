"""A base model's parts as ONNX graphs, in the layout and with the names that ONNX pipelines use (Optimum's).

Weights stay float32 or float16 as they are loaded; sizes of batches and pictures are free. The shared kind has no pack
in it: the UNet takes the projected keys and values of every cross-attention as inputs, and what a pack brings (K and V
weights, token rows) are inputs with the base model's own as defaults.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from ..concepts import MAX_CONCEPTS
from ..unet.attention import AttentionProcessor, CachedKeyValueProcessor, attention_processors
from ..unet.shallow import Kept, shallow

OPSET = 20
_EXTERNAL_ABOVE = 1 << 31  # bytes; protobuf holds no more in one file
DATA_FILE = "model.onnx_data"


class TextEncoderGraph(nn.Module):
    """``input_ids`` to what the UNet reads of them; ids behind the table are rows of ``token_rows``.

    That is ``last_hidden_state`` and ``pooler_output`` of a single encoder, of several ``states`` and from the last
    ``pooled`` too.

    Args:
        encoder: the module.
        read: of several encoders, what a family makes of ids by this one; ``None``: there is one alone.
    """

    def __init__(self, encoder: Any, read: Callable[[Any, Tensor], tuple[Tensor, ...]] | None = None) -> None:
        super().__init__()
        self.encoder, self.read = encoder, read

    def forward(self, input_ids: Tensor, token_rows: Tensor) -> tuple[Tensor, ...]:
        table = self.encoder.get_input_embeddings()
        extra = input_ids >= table.num_embeddings
        known = table(input_ids.masked_fill(extra, 0))
        learned = F.embedding((input_ids - table.num_embeddings).clamp(min=0), token_rows)
        embeddings = torch.where(extra[..., None], learned, known)
        self.encoder.set_input_embeddings(_Given(embeddings))
        try:
            if self.read is not None:
                return self.read(self.encoder, input_ids)
            result = self.encoder(input_ids)
        finally:
            self.encoder.set_input_embeddings(table)
        return result.last_hidden_state, result.pooler_output


class _Given(nn.Module):
    """An embedding layer that has its answer already."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.given = [embeddings]  # in a list, so that it is no buffer

    def forward(self, ids: Tensor) -> Tensor:
        return self.given[0]


class ProjectionGraph(nn.Module):
    """``encoder_hidden_states`` and every K and V weight to the keys and values of every cross-attention.

    A pack brings weights, or changes of low rank:
    ``....to_k.down`` ``[r, context]`` and ``....to_k.up`` ``[hidden, r]``.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = list(layers)

    def forward(self, encoder_hidden_states: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
        def project(name: str) -> Tensor:
            change = F.linear(F.linear(encoder_hidden_states, weights[f"{name}.down"]), weights[f"{name}.up"])
            return F.linear(encoder_hidden_states, weights[f"{name}.weight"]) + change

        return tuple(project(name) for name in matrix_names(self.layers))


class UNetGraph(nn.Module):
    """The UNet as it is: ``sample``, ``timestep``, ``encoder_hidden_states`` to ``out_sample``.

    What some take beside is in a dictionary: ``text_embeds`` and ``time_ids`` of families that have them,
    ``timestep_cond`` where the guidance scale is a condition.

    Args:
        unet: the module.
        kept: its deep features, see :func:`sdk.unet.shallow.keeping_deep`, which are ``deep_features`` then.
    """

    def __init__(self, unet: Any, kept: Kept | None = None) -> None:
        super().__init__()
        self.unet, self.kept = unet, kept

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, further: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        found = self.unet(sample, timestep, encoder_hidden_states, **_conditions(further), return_dict=False)[0]
        return _beside(found, self.kept)


class SharedUNetGraph(nn.Module):
    """The UNet with keys and values given, per layer ``[b, T, hidden]``, instead of text states.

    The arguments are those of :class:`UNetGraph`.
    """

    def __init__(self, unet: Any, kept: Kept | None = None) -> None:
        super().__init__()
        self.unet, self.kept = unet, kept

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        projected: dict[str, Tensor],
        further: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        with attention_processors(self.unet, _cached(projected)):
            states = _no_states(self.unet, sample)
            found = self.unet(sample, timestep, states, **_conditions(further), return_dict=False)[0]
        return _beside(found, self.kept)


class ShallowUNetGraph(nn.Module):
    """First and last layers of the UNet, with ``deep_features`` of an earlier step: :mod:`sdk.unet.shallow`.

    Of keys and values, or text states, it takes what the attention in it needs, if there is one.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: Tensor, timestep: Tensor, deep_features: Tensor, given: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        projected = {name: value for name, value in given.items() if ".attn2." in name}
        further = {name: value for name, value in given.items() if "." not in name}
        states = further.pop("encoder_hidden_states", None)
        states = _no_states(self.unet, sample) if states is None else states
        with attention_processors(self.unet, _cached(projected)):
            return (shallow(self.unet, sample, timestep, deep_features, states, **_conditions(further)),)


def _cached(projected: Mapping[str, Tensor]) -> dict[str, CachedKeyValueProcessor]:
    layers = {name.rpartition(".")[0] for name in projected}
    return {each: CachedKeyValueProcessor(projected[f"{each}.key"], projected[f"{each}.value"]) for each in layers}


def _no_states(unet: Any, sample: Tensor) -> Tensor:
    """Text states, which a UNet wants, though no layer reads them."""
    return sample.new_zeros(sample.shape[0], 1, unet.config.cross_attention_dim)


def _beside(found: Tensor, kept: Kept | None) -> tuple[Tensor, ...]:
    return (found,) if kept is None or kept.deep is None else (found, kept.deep)


def _conditions(further: dict[str, Tensor] | None) -> dict[str, Any]:
    """What a UNet takes beside, as diffusers wants it."""
    added = dict(further or {})
    found = {"timestep_cond": added.pop("timestep_cond", None), "added_cond_kwargs": added or None}
    return {name: value for name, value in found.items() if value is not None}


class DecoderGraph(nn.Module):
    """``latent_sample``, already divided by the scaling factor, to ``sample``."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]


class EncoderGraph(nn.Module):
    """``sample`` to ``latent_parameters``: mean and log-variance of the latents, side by side."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        return self.vae.encode(sample).latent_dist.parameters


def matrix_names(layers: Sequence[str]) -> list[str]:
    """Names of K and V of these layers, in order: ``....attn2.to_k``."""
    return [f"{layer}.to_{which}" for layer in layers for which in "kv"]


def projected_names(layers: Sequence[str]) -> list[str]:
    """Names of the projected keys and values of these layers, in order: ``....attn2.key``."""
    return [f"{layer}.{which}" for layer in layers for which in ("key", "value")]


def write_graph(
    graph: nn.Module,
    arguments: tuple[Any, ...],
    names: Sequence[str],
    outputs: Sequence[str],
    shapes: Any,
    folder: Path,
    *,
    defaults: Mapping[str, Tensor] | None = None,
    fixed: bool = False,
) -> Path:
    """Export a graph to ``folder/model.onnx``, its weights beside it if they are larger than a protobuf may be.

    Args:
        graph: one of the modules above.
        arguments: examples of its inputs.
        names: of the inputs, dictionaries flattened.
        outputs: their names.
        shapes: free dimensions, in the structure of ``arguments``.
        folder: where to write.
        defaults: values of inputs that need not be given.
        fixed: they cannot be given either.
    """
    import onnx

    with _quiet():
        # Exported here, not by torch.onnx: that takes a dictionary at the end of the arguments for keywords.
        traced = torch.export.export(graph.eval(), arguments, dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            optimize=True,
            input_names=list(names),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # only when written straight to a file
    model = program.model_proto
    _forget_sources(model.graph)
    for name, value in (defaults or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.detach().cpu().numpy(), name))
        if fixed:
            (declared,) = [i for i in model.graph.input if i.name == name]
            model.graph.input.remove(declared)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    if size > _EXTERNAL_ABOVE:
        onnx.save_model(model, path, save_as_external_data=True, location=DATA_FILE, all_tensors_to_one_file=True)
    else:
        onnx.save_model(model, path)
    return path


def _forget_sources(graph: Any) -> None:
    """Drop the exporter's notes on every node: they hold paths of this machine, and most of a small model's bytes."""
    for node in graph.node:
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_sources(attribute.g)
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]


def free(*dimensions: int) -> dict[int, Any]:
    """Free dimensions of one input, by position."""
    return dict.fromkeys(dimensions, Dim.DYNAMIC)


def token_rows(width: int, dtype: torch.dtype) -> Tensor:
    """The default of ``token_rows``: none, ``[MAX_CONCEPTS, width]`` zeros."""
    return torch.zeros(MAX_CONCEPTS, width, dtype=dtype)


def plain_attention(unet: nn.Module) -> dict[str, AttentionProcessor]:
    """Processors that export well: attention by stock operators for every layer."""
    from diffusers.models.attention_processor import Attention

    return {name: AttentionProcessor() for name, m in unet.named_modules() if isinstance(m, Attention)}


@contextmanager
def _quiet():
    """The exporter talks about packages it would like to have."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
