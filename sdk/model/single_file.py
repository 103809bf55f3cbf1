"""Base models in one file, as A1111 and ComfyUI have them; nothing is fetched for them.

diffusers reads the weights. What it would ask the Hub for, the parts' configurations and the vocabulary, is written
into a folder that lives as long as the loading: from this package's own numbers and from what is on this machine.
"""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..disk.reading import read_json
from ..errors import BaseModelError
from ..families import Family, load_family
from ..families.clip_vocabulary import write_vocabulary
from ..families.recognize import SUPPORTED, family_of_index
from ..families.single_files import check_readable, configuration_of
from .older_text_encoder import older_text_encoder

SUFFIXES = (".safetensors", ".ckpt")
_INDEX = "model_index.json"
# What the readers of safetensors, zip archives and pickles raise for files that are none, or parts of one.
_UNREADABLE = (
    *(SafetensorError, OSError, EOFError, pickle.UnpicklingError, struct.error, MemoryError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ImportError, ArithmeticError),
)


def load_single_file(file: Path, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """Load a base model out of one file.

    Args:
        file: ``.safetensors``, or a ``.ckpt``, of which tensors alone are read.
        dtype: of the weights.
        options: passed on to diffusers; ``config`` is a folder in diffusers' layout that the configurations and the
            vocabulary are taken from.

    Raises:
        BaseModelError: another kind of file, or no vocabulary for it.
    """
    shapes, about = _contents(file)
    check_readable(shapes, file.name)
    config = options.get("config")
    if config is not None and Path(str(config)).is_dir():
        index = read_json(Path(str(config)) / _INDEX, kind=BaseModelError, advice="give a folder in diffusers' layout")
        family = family_of_index(index, str(config))
        return _loaded(family, file, shapes, dtype, dict(options) | {"config": str(config)})
    name, parts = configuration_of(shapes, file.name, **about)
    family = load_family(name)
    if config is not None:  # of the Hub
        return _loaded(family, file, (), dtype, options)
    with tempfile.TemporaryDirectory() as folder:
        write_configuration(Path(folder), family, parts)
        return _loaded(family, file, shapes, dtype, dict(options) | {"config": folder})


def write_configuration(folder: Path, family: Family, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a folder in diffusers' layout without weights, the vocabulary included."""
    index: dict[str, Any] = {
        "_class_name": family.pipelines[0] if family.pipelines else family.pipeline_class().__name__,
        "_diffusers_version": "0.42.0",
    }
    for part, values in parts.items():
        inside = folder / part
        inside.mkdir()
        if part.startswith("tokenizer"):
            write_vocabulary(inside)
            marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
            _write(inside / "tokenizer_config.json", {**marks, **values})
            index[part] = ["transformers", values["tokenizer_class"]]
        elif part == "scheduler":
            _write(inside / "scheduler_config.json", values)
            index[part] = ["diffusers", values["_class_name"]]
        else:
            _write(inside / "config.json", values)
            known = values.get("architectures")
            index[part] = ["transformers", known[0]] if known else ["diffusers", values["_class_name"]]
    _write(folder / _INDEX, index | {name: [None, None] for name in family.absent})


def _loaded(family: Family, file: Path, names: Collection[str], dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    given = {"torch_dtype": dtype, "local_files_only": True} | dict(family.loading) | dict(options)
    older = None if "text_encoder" in given else older_text_encoder(file, names, str(given["config"]), dtype)
    given |= {} if older is None else {"text_encoder": older}
    return family.pipeline_class().from_single_file(str(file), **given)


def _contents(file: Path) -> tuple[dict[str, Sequence[int]], dict[str, Any]]:
    """Shapes of a file's weights by name, and what it says about itself; the numbers are not read."""
    try:
        if file.suffix == ".ckpt":
            return _of_pickle(torch.load(file, map_location="meta", weights_only=True, mmap=True))
        with safe_open(file, "pt") as opened:
            stated = (opened.metadata() or {}).get("modelspec.prediction_type")
            about = {"prediction": {"v": "v_prediction"}.get(stated or "", stated)}
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}, about  # noqa: SIM118
    except _UNREADABLE as error:
        raise BaseModelError(
            f"the file {file.name!r} is no checkpoint, or damaged, or not whole; copy it again; {SUPPORTED}"
        ) from error


def _of_pickle(held: Any) -> tuple[dict[str, Sequence[int]], dict[str, Any]]:
    """What a ``.ckpt`` holds: weights by name, themselves or as ``state_dict``, and the steps of its training."""
    table = held if isinstance(held, dict) else {}
    step, weights = table.get("global_step"), table.get("state_dict", table)
    named = weights.items() if isinstance(weights, dict) else ()
    shapes: dict[str, Sequence[int]] = {
        name: tuple(t.shape) for name, t in named if isinstance(name, str) and isinstance(t, torch.Tensor)
    }
    return shapes, {"step": step if isinstance(step, int) else None}


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")
