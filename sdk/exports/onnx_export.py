"""Export to ONNX Runtime: one pack merged into its base model, or the base once for any number of packs.

Merged is the folder that ONNX pipelines load (Optimum's layout). Shared has the same parts, but the UNet takes
projected keys and values, ``kv_projection`` makes them, and a pack is one small ``.onnx_adapter`` file. Each part is
run in ONNX Runtime and compared with PyTorch before the folder appears.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..deploy.clip_tokenizer import is_clips
from ..deploy.onnx_folder import FORMAT_VERSION, MANIFEST, PARTS, SHALLOW, SHARED_PARTS
from ..deploy.samplers.choose import check_known
from ..disk.files import as_path, sha256_file
from ..disk.folders import new_folder
from ..errors import InputError, NotFiniteError, OutputError
from ..families.layers import cross_attention_layers
from ..finite import is_finite
from ..model.base_model import BaseModel
from ..model.schedules import guidance_condition
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..runtime import Phase, Progress
from ..turns import all_alone
from ..unet.attention import attention_processors
from ..unet.inpainting import paints_over
from ..unet.matrices import whole
from ..unet.shallow import keeping_deep, shallow_prefix
from ..unet.weights import replaced_weights
from . import onnx_graphs as graphs
from .int8 import need_packages, quantize_folder

log = logging.getLogger(__name__)
# Largest difference from PyTorch, relative to the largest value; float16 rounds to 1e-3.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2}


@all_alone()
def export_model(
    base: BaseModel,
    folder: str | Path,
    pack: ConceptPack | None = None,
    *,
    shared: bool = False,
    dtype: torch.dtype | None = None,
    int8: bool = False,
    drawn: ConceptPack | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, float]:
    """Write an ONNX folder; see :meth:`sdk.Personalizer.export_onnx`, whose arguments it takes.

    Args:
        drawn: of a shared export, a pack whose prompts are drawn to quantise; default general prompts alone.

    Returns:
        The largest difference from PyTorch, relative to the largest value, by part.
    """
    _need_packages()
    if int8:
        need_packages()
    if shared and pack is not None:
        raise InputError("a shared export holds no pack; write the pack by pack.export_adapter(file)")
    if shared and any(".lora_" in name for name, _ in base.pipe.unet.named_parameters()):
        raise InputError("a shared export holds the base model alone; remove the LoRAs first: unload_lora_weights()")
    if pack is not None:
        base.check_base(pack)
        pack.check_storable()
        if pack.clip_skip:
            raise InputError("exports know no clip_skip, with which this pack was fitted; fit it without")
    scheduler = base.sampling_scheduler()
    takes = inspect.signature(type(scheduler).__init__).parameters  # it keeps others', without effect
    check_known(type(scheduler).__name__, {name: value for name, value in scheduler.config.items() if name in takes})
    dtype = dtype or torch.float32
    if dtype not in TOLERANCES:
        raise InputError(f"ONNX exports are float32 or float16, got {dtype}")
    destination = as_path(folder)
    taken = destination.exists() and (not destination.is_dir() or any(destination.iterdir()))
    if taken and not (destination / MANIFEST).is_file():
        raise OutputError(f"{destination} holds other files; give an empty or a new folder for the export")
    with new_folder(destination, manifest=MANIFEST) as work:
        count = len(SHARED_PARTS if shared else PARTS) + len(base.text_parts) - 1 + reuses(base)
        phase = Phase("export", count, progress, cancel)
        errors = _Exporter(base, pack, work, dtype, phase).run(shared)
        if int8:
            quantize_folder(work, drawn if shared else pack, shared, progress, cancel)
        return errors


def reuses(base: BaseModel) -> bool:
    """Whether drawing can use deep features of a step in the next: not of models that take few steps, each far."""
    return not base.distilled


class _Exporter:
    """One export: copies of the parts on the CPU, in the type asked for."""

    def __init__(self, base: BaseModel, pack: ConceptPack | None, work: Path, dtype: torch.dtype, phase: Phase):
        self.base, self.pack, self.work, self.dtype, self.phase = base, pack, work, dtype, phase
        pipe = base.pipe
        # By PyTorch's own `to`: diffusers' warns of layers to be kept in float32 though there are none.
        own = base.text_parts
        self.unet, self.vae, *encoders = (
            nn.Module.to(copy.deepcopy(part), "cpu", dtype).eval()
            for part in (pipe.unet, pipe.vae, *(each.encoder for each in own))
        )
        if base.upcast_vae:  # in float16 it overflows
            self.vae = nn.Module.to(self.vae, torch.float32)
        self.parts = [replace(part, encoder=copied) for part, copied in zip(own, encoders, strict=True)]
        self.conditioner = TextConditioner(base.family, self.parts, pack.tokens if pack is not None else ())
        self.layers = list(cross_attention_layers(self.unet))
        self.reuses = reuses(base)
        self.errors: dict[str, float] = {}

    def run(self, shared: bool) -> dict[str, float]:
        with torch.no_grad():
            for index in range(len(self.parts)):
                self._text_encoder(index, shared)
            if shared:
                self._projection()
            self._unet(shared)
            self._autoencoder()
        self._configurations(shared)
        for part, error in self.errors.items():
            log.info("%s: largest difference from PyTorch %.1e", part, error)
        return self.errors

    def _text_encoder(self, index: int, shared: bool) -> None:
        part, widths = self.parts[index], self.conditioner.widths
        rows = graphs.token_rows(widths[index], self.dtype)
        if self.pack is not None:
            rows[: len(self.pack.embeddings)] = self.pack.embeddings.split(widths, -1)[index].to(self.dtype)
        # Two of everything: a dimension of one would be taken for fixed.
        ids = self.conditioner.tokenize(["a", "photo of a" if self.pack is None else self.pack.prompt], index)
        graph, outputs = graphs.TextEncoderGraph(part.encoder), ["last_hidden_state", "pooler_output"]
        if len(self.parts) > 1:
            end, family = self.conditioner.vocabulary.end, self.base.family

            def read(encoder: Any, given: Tensor) -> tuple[Tensor, ...]:
                found = family.read(encoder, given, index=index, end=end, clip_skip=0)
                return tuple(each for each in found if each is not None)

            graph, outputs = graphs.TextEncoderGraph(part.encoder, read), ["states", "pooled"][: index + 1]
        names = ["input_ids", "token_rows"]
        shapes = (graphs.free(0), None)
        folder = self.work / part.name
        default = {"token_rows": rows}
        graphs.write_graph(graph, (ids, rows), names, outputs, shapes, folder, defaults=default, fixed=not shared)
        self._check(part.name, graph, (ids, rows), {"input_ids": ids})

    def _projection(self) -> None:
        weights: dict[str, Tensor] = {}
        shapes: dict[str, Any] = {}
        for name in graphs.matrix_names(self.layers):
            own = weights[f"{name}.weight"] = self.unet.get_parameter(f"{name}.weight").detach()
            # Two of everything here, too: a rank of one would be taken for fixed.
            weights[f"{name}.down"] = own.new_zeros(2, own.shape[1])
            weights[f"{name}.up"] = own.new_zeros(own.shape[0], 2)
            shapes |= {f"{name}.weight": None, f"{name}.down": graphs.free(0), f"{name}.up": graphs.free(1)}
        states = torch.randn(2, self.conditioner.length, self._context()).to(self.dtype)
        graph = graphs.ProjectionGraph(self.layers)
        names = ["encoder_hidden_states", *weights]
        outputs = graphs.projected_names(self.layers)
        folder = self.work / "kv_projection"
        free = (graphs.free(0), shapes)
        graphs.write_graph(graph, (states, weights), names, outputs, free, folder, defaults=weights)
        self._check("kv_projection", graph, (states, weights), {"encoder_hidden_states": states})

    def _unet(self, shared: bool) -> None:
        side = self.base.latent_shape[1]
        sample = torch.randn(2, self.unet.config.in_channels, side, side).to(self.dtype)
        further = self._further()
        timestep = torch.tensor(500, dtype=torch.int64)
        length = self.conditioner.length
        with ExitStack() as stack:
            stack.enter_context(attention_processors(self.unet, graphs.plain_attention(self.unet)))
            if shared:
                kind: Any = graphs.SharedUNetGraph
                given = {
                    name: torch.randn(2, length, self.unet.get_submodule(name.rpartition(".")[0]).to_k.out_features)
                    for name in graphs.projected_names(self.layers)
                }
                third: Any = {name: value.to(self.dtype) for name, value in given.items()}
                text, free = third, {name: graphs.free(0, 1) for name in third}
            else:
                stack.enter_context(replaced_weights(self.unet, self._learned()))
                kind = graphs.UNetGraph
                third = torch.randn(2, length, self._context()).to(self.dtype)
                text, free = {"encoder_hidden_states": third}, graphs.free(0, 1)
            # Afterwards: what a pack learned of the layer that keeps is found by its name.
            kept = stack.enter_context(keeping_deep(self.unet)) if self.reuses else None
            graph = kind(self.unet, kept)
            arguments: tuple[Any, ...] = (sample, timestep, third)
            shapes: tuple[Any, ...] = (graphs.free(0, 2, 3), None, free)
            if further:
                arguments = (*arguments, further)
                shapes = (*shapes, {name: graphs.free(0) for name in further})
            outputs = ["out_sample", "deep_features"] if self.reuses else ["out_sample"]
            fed = {"sample": sample, "timestep": timestep, **text, **further}
            graphs.write_graph(graph, arguments, list(fed), outputs, shapes, self.work / "unet")
            self._check("unet", graph, arguments, fed)
            if kept is not None and kept.deep is not None:
                self._shallow(sample, timestep, kept.deep.clone(), text, further)

    def _shallow(
        self, sample: Tensor, timestep: Tensor, deep: Tensor, text: dict[str, Tensor], further: dict[str, Tensor]
    ) -> None:
        """What finishes deep features of an earlier step; it takes what its own attention needs of the text."""
        prefix = shallow_prefix(self.unet)
        attended = any(layer.startswith(prefix) for layer in self.layers)
        own = {n: v for n, v in text.items() if n.startswith(prefix) or (attended and n == "encoder_hidden_states")}
        given = own | further
        free = {n: graphs.free(0, 1) for n in own} | {n: graphs.free(0) for n in further}
        fed = {"sample": sample, "timestep": timestep, "deep_features": deep, **given}
        shapes = (graphs.free(0, 2, 3), None, graphs.free(0, 2, 3), free)
        graph, arguments = graphs.ShallowUNetGraph(self.unet), (sample, timestep, deep, given)
        graphs.write_graph(graph, arguments, list(fed), ["out_sample"], shapes, self.work / SHALLOW)
        self._check(SHALLOW, graph, arguments, fed)

    def _further(self) -> dict[str, Tensor]:
        """Examples of what the UNet takes beside latents, timesteps and text states, by name."""
        with torch.no_grad():
            text = self.conditioner.encode(["a", "a"]).to(self.dtype)
        given = self.base.family.unet_arguments(text, self.base.sizes().expand(2, -1))
        found = {name: value.clone() for name, value in given.get("added_cond_kwargs", {}).items()}
        guidance = guidance_condition(self.unet, 8.0, "cpu")
        if guidance is not None:
            found["timestep_cond"] = guidance.expand(2, -1).clone().to(self.dtype)
        return found

    def _autoencoder(self) -> None:
        side, factor = self.base.latent_shape[1], self.base.pipe.vae_scale_factor
        latents = torch.randn(2, self.vae.config.latent_channels, side, side).to(self.vae.dtype)
        picture = torch.rand(2, 3, side * factor, side * factor).to(self.vae.dtype) * 2 - 1
        for part, graph, name, output, example in (
            ("vae_decoder", graphs.DecoderGraph(self.vae), "latent_sample", "sample", latents),
            ("vae_encoder", graphs.EncoderGraph(self.vae), "sample", "latent_parameters", picture),
        ):
            shapes = (graphs.free(0, 2, 3),)
            graphs.write_graph(graph, (example,), [name], [output], shapes, self.work / part)
            self._check(part, graph, (example,), {name: example})

    def _pipeline(self) -> str:
        """Diffusers' class of pipelines that draws with such parts."""
        kind = self.base.family.pipeline_class().__name__
        if paints_over(self.unet, self.vae.config.latent_channels):
            return kind.replace("Pipeline", "InpaintPipeline")
        alone = len(self.parts) == 1  # of families with several encoders the usual class takes the guidance scale, too
        return "LatentConsistencyModelPipeline" if self.base.takes_guidance and alone else kind

    def _zeros_without_prompt(self) -> bool:
        """Whether zeros stand for no negative prompt."""
        with torch.no_grad():
            text = self.conditioner.encode([""])
        return not self.base.family.without_prompt(self.base.pipe, text).states.any()

    def _learned(self) -> dict[str, nn.Parameter]:
        """The pack's weights of the UNet, by parameter name."""
        if self.pack is None:
            return {}
        weights: dict[str, Tensor] = dict(self.pack.unet)
        for layer, pair in self.pack.key_value.items():
            for which, matrix in zip("kv", pair, strict=True):
                name = f"{layer}.to_{which}.weight"
                weights[name] = whole(matrix, self.unet.get_parameter(name).detach().float())
        return {name: nn.Parameter(w.to(self.dtype), requires_grad=False) for name, w in weights.items()}

    def _context(self) -> int:
        return int(self.unet.config.cross_attention_dim)

    def _check(self, part: str, graph: Callable, arguments: tuple, fed: dict[str, Tensor]) -> None:
        """Run a part in ONNX Runtime and compare; raise if it computes something else."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        path = self.work / part / "model.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        got = session.run(None, {name: value.numpy() for name, value in fed.items()})
        want = graph(*arguments)
        want = want if isinstance(want, tuple) else (want,)
        error = 0.0
        for ours, theirs in zip(want, got, strict=True):
            expected = ours.float().numpy()
            if not (is_finite(expected) and is_finite(theirs)):
                raise NotFiniteError(f"the exported {part} computes no numbers: it overflows {self.dtype}; use float32")
            difference = np.abs(theirs.astype(np.float32) - expected).max() / max(np.abs(expected).max(), 1e-6)
            error = max(error, float(difference))
        self.errors[part] = error
        if not error <= TOLERANCES[self.dtype]:
            raise OutputError(
                f"the exported {part} differs from PyTorch by {error:.1e} of its largest value; nothing was written"
            )
        self.phase.step()

    def _configurations(self, shared: bool) -> None:
        """Everything besides graphs that a pipeline of the layout reads, and our own manifest."""
        for number, own in enumerate(self.parts):
            folder = self.work / own.tokenizer_name
            self.conditioner.tokenizer(number).save_pretrained(folder)
            if not is_clips((folder / "tokenizer.json").read_text(encoding="utf-8")):
                raise InputError("the base model's tokenizer is none of CLIP's kind, which exports cannot hold")
            _older_tokenizer_files(folder)
        scheduler = self.base.sampling_scheduler()  # what the torch path samples with
        scheduler.save_pretrained(self.work / "scheduler")
        parts: dict[str, Any] = {own.name: own.encoder for own in self.parts}
        parts |= {"unet": self.unet, "vae_decoder": self.vae, "vae_encoder": self.vae}
        for part, module in parts.items():
            config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
            config.pop("_name_or_path", None)  # where the base model lies here concerns nobody
            text = json.dumps({k: v for k, v in config.items() if _plain(v)}, indent=2)
            (self.work / part / "config.json").write_text(text + "\n", encoding="utf-8")
        index: dict[str, Any] = {"_class_name": f"ORT{self._pipeline()}", "_diffusers_version": _version()}
        index |= {part: ["optimum.onnxruntime.modeling_diffusion", _CLASSES[part]] for part in parts}
        index |= {own.tokenizer_name: ["transformers", "CLIPTokenizer"] for own in self.parts}
        index |= {
            "scheduler": ["diffusers", type(scheduler).__name__],
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
        }
        (self.work / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": "shared" if shared else "merged",
            "dtype": str(self.dtype).removeprefix("torch."),
            "base_model": self.base.base.to_dict(),
            "table_size": self.conditioner.table_size,
            "layers": self.layers,
            "scaling_factor": float(self.vae.config.scaling_factor),
            "guidance_scale": self.base.sampling.guidance_scale,
            "guidance_rescale": self.base.sampling.guidance_rescale,
            "num_inference_steps": self.base.sampling.steps,
            "zeros_without_prompt": self._zeros_without_prompt(),
            "concepts": [] if self.pack is None else [{"token": c.token, "class": c.noun} for c in self.pack.concepts],
            **({} if self.pack is None else {"pack": self.pack.statement.to_dict()}),
            "largest_error": self.errors,
            "files": {
                file.relative_to(self.work).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
                for file in sorted(self.work.rglob("*"))
                if file.is_file()
            },
        }
        (self.work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


_CLASSES = {
    "text_encoder": "ORTTextEncoder",
    "text_encoder_2": "ORTTextEncoder",
    "unet": "ORTUnet",
    "vae_decoder": "ORTVaeDecoder",
    "vae_encoder": "ORTVaeEncoder",
}


def _older_tokenizer_files(folder: Path) -> None:
    """Write what transformers 4, which Optimum runs on, reads instead of ``tokenizer.json``."""
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = definition["model"], {t["content"]: t["id"] for t in definition["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    own = {token: index for token, index in added.items() if token not in model["vocab"]}
    (folder / "added_tokens.json").write_text(json.dumps(own), encoding="utf-8")


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, tuple, dict, type(None)))


def _version() -> str:
    import diffusers

    return diffusers.__version__


def _need_packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise InputError(f"exporting to ONNX needs {package}; run: pip install 'personalizer-sdk[onnx]'") from error
