"""An exported folder in milliseconds: small hand-made graphs with the inputs and outputs of the real ones.

What reads such folders looks at files, names, types and shapes; what the graphs compute is of no account there. The
slow tier uses a real export, which takes half a minute.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64
MANIFEST = "personalizer_onnx.json"


def write_folder(engine: Any, folder: Path) -> None:
    """Write a shared export of a base model."""
    unet, width = engine.pipe.unet, engine.base.context
    length = engine.pipe.tokenizer.model_max_length
    layers = list(engine.base.fingerprint)
    table = engine.pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    sizes = {layer: unet.get_submodule(layer).to_k.out_features for layer in layers}
    graphs = {
        "text_encoder": _text_encoder(table, length, width),
        "kv_projection": _projection(unet, layers, length, width),
        "unet": _unet(layers, sizes, unet.config.in_channels),
        "vae_decoder": _decoder(unet.config.in_channels),
        "vae_encoder": _encoder(unet.config.in_channels),
    }
    for part, graph in graphs.items():
        (folder / part).mkdir(parents=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.save_model(model, str(folder / part / "model.onnx"))
    _configurations(engine, folder, layers, len(table))


def _configurations(engine: Any, folder: Path, layers: list[str], rows: int) -> None:
    engine.pipe.tokenizer.save_pretrained(folder / "tokenizer")
    engine.sampling_scheduler().save_pretrained(folder / "scheduler")
    pipe = engine.pipe
    parts = {"text_encoder": pipe.text_encoder, "unet": pipe.unet, "vae_decoder": pipe.vae, "vae_encoder": pipe.vae}
    for part, module in parts.items():
        config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
        plain = {k: v for k, v in config.items() if isinstance(v, (str, int, float, list, tuple, dict, type(None)))}
        (folder / part / "config.json").write_text(json.dumps(plain))
    (folder / "model_index.json").write_text("{}")
    manifest = {
        "format_version": 1,
        "kind": "shared",
        "dtype": "float32",
        "base_model": engine.base.to_dict(),
        "table_size": rows,
        "layers": layers,
        "scaling_factor": float(engine.pipe.vae.config.scaling_factor),
        "guidance_scale": 6.0,
        "concepts": [],
        "largest_error": {},
        "files": {},
    }
    fix_hashes(folder, manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def fix_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """Enter sizes and hashes of the files as they are now."""
    manifest["files"] = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


def _text_encoder(table: np.ndarray, length: int, width: int) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Concat", ["table", "token_rows"], ["all"], axis=0),
        helper.make_node("Gather", ["all", "input_ids"], ["last_hidden_state"]),
        helper.make_node("ReduceMean", ["last_hidden_state", "one"], ["pooler_output"], keepdims=0),
    ]
    constants = {
        "table": table.astype(np.float32),
        "token_rows": np.zeros((8, width), np.float32),
        "one": np.array([1], np.int64),
    }
    inputs = [_value("input_ids", ["b", length], _INT), _value("token_rows", [8, width])]
    outputs = [_value("last_hidden_state", ["b", length, width]), _value("pooler_output", ["b", width])]
    return _graph(nodes, inputs, outputs, constants)


def _projection(unet: Any, layers: list[str], length: int, width: int) -> onnx.GraphProto:
    nodes, outputs = [], []
    inputs = [_value("encoder_hidden_states", ["b", length, width])]
    constants = {}
    for layer in layers:
        for letter, name in (("k", "key"), ("v", "value")):
            weight = f"{layer}.to_{letter}.weight"
            constants[weight] = unet.get_parameter(weight).detach().numpy()
            nodes.append(helper.make_node("Transpose", [weight], [f"{weight}.T"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", ["encoder_hidden_states", f"{weight}.T"], [f"{layer}.{name}"]))
            inputs.append(_value(weight, list(constants[weight].shape)))
            outputs.append(_value(f"{layer}.{name}", ["b", length, constants[weight].shape[0]]))
    return _graph(nodes, inputs, outputs, constants)


def _unet(layers: list[str], sizes: dict[str, int], channels: int) -> onnx.GraphProto:
    """The sample, moved by the mean of everything it is given."""
    inputs = [_value("sample", ["b", channels, "h", "w"]), _value("timestep", [], _INT)]
    nodes, means = [], []
    for layer in layers:
        for name in ("key", "value"):
            inputs.append(_value(f"{layer}.{name}", ["b", "t", sizes[layer]]))
            means.append(f"{layer}.{name}.mean")
            nodes.append(helper.make_node("ReduceMean", [f"{layer}.{name}", "axes"], [means[-1]], keepdims=1))
    nodes += [
        helper.make_node("Sum", means, ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "last"], ["moved"]),
        helper.make_node("Cast", ["timestep"], ["time"], to=_FLOAT),
        helper.make_node("Mul", ["time", "little"], ["level"]),
        helper.make_node("Sum", ["sample", "moved", "level"], ["out_sample"]),
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "last": np.array([3], np.int64),
        "little": np.array(1e-4, np.float32),
    }
    return _graph(nodes, inputs, [_value("out_sample", ["b", channels, "h", "w"])], constants)


def _decoder(channels: int) -> onnx.GraphProto:
    weight = np.random.default_rng(0).normal(0, 0.1, (channels, 3, 2, 2)).astype(np.float32)
    nodes = [helper.make_node("ConvTranspose", ["latent_sample", "weight"], ["sample"], strides=[2, 2])]
    inputs = [_value("latent_sample", ["b", channels, "h", "w"])]
    return _graph(nodes, inputs, [_value("sample", ["b", 3, "H", "W"])], {"weight": weight})


def _encoder(channels: int) -> onnx.GraphProto:
    weight = np.random.default_rng(1).normal(0, 0.3, (2 * channels, 3, 2, 2)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["sample", "weight"], ["latent_parameters"], strides=[2, 2])]
    outputs = [_value("latent_parameters", ["b", 2 * channels, "h", "w"])]
    return _graph(nodes, [_value("sample", ["b", 3, "H", "W"])], outputs, {"weight": weight})


def _value(name: str, shape: list[Any], kind: int = _FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _graph(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> onnx.GraphProto:
    stored = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    return helper.make_graph(nodes, "stand_in", inputs, outputs, initializer=stored)
