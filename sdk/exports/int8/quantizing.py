"""The way from an exported folder to the quantised UNet in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import nncf
import openvino

from ...deploy import OnnxPersonalizer
from ...deploy.adapters import read_adapter
from ...deploy.onnx_folder import INT8_UNET, MANIFEST
from ...disk.files import sha256_file
from ...errors import OutputError
from ...pack import ConceptPack
from ...runtime import Phase, Progress
from .feeds import Feeds, feeds_of, prompts_for
from .quality import MOST_DRIFT, drift_of, judged, level_errors
from .record import STEPS, Int8
from .sensitive import groups_of, sensitive_groups, unquantized


def quantized(
    folder: Path, pack: ConceptPack | None, shared: bool, progress: Progress | None, cancel: threading.Event | None
) -> Int8:
    """See :func:`sdk.exports.int8.quantize_folder`."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".quantize-") as scratch:
        adapter = None
        if shared and pack is not None:
            adapter = pack.export_adapter(Path(scratch) / "pack.onnx_adapter")
        found = _written(folder, pack, adapter, Path(scratch) / "trial", Phase("quantize", STEPS, progress, cancel))
    about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    about["int8"] = found.to_dict()
    about["files"] |= _files(folder)
    (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return found


def _written(folder: Path, pack: ConceptPack | None, adapter: Path | None, trial: Path, phase: Phase) -> Int8:
    """Write the graph, unless its errors are too large."""
    opened = OnnxPersonalizer.from_pretrained(folder, engine="openvino").model
    held = None if adapter is None else read_adapter(adapter)
    ranges, measured = feeds_of(opened, prompts_for(pack), held)
    phase.step()
    core = openvino.Core()
    hint = {"fp32": "f32"}.get(str(opened.engine.precision), "bf16")
    model = core.read_model(folder / "unet" / "model.onnx")
    sizes = {name: list(value.shape) for name, value in measured[0].items()}

    def compiled(candidate: Any, precision: str) -> Any:
        own = candidate.clone()
        own.reshape(sizes)
        return core.compile_model(own, "CPU", {"INFERENCE_PRECISION_HINT": precision})

    exact = compiled(model, "f32")
    wanted = [exact(fed)["out_sample"].copy() for fed in measured]
    del exact  # gigabytes of a large model
    timesteps = [int(fed["timestep"]) for fed in measured]

    def errors(candidate: Any) -> list[float]:
        return level_errors(compiled(candidate, hint), measured, wanted)

    def drift(candidate: Any) -> float:
        return drift_of(errors(candidate), timesteps, opened.levels)

    small = _quantized(model, ranges)
    phase.step()
    groups = groups_of(model)
    kept = sensitive_groups(small, groups, drift)
    small = unquantized(small, [name for group in kept for name in groups[group]])
    phase.step()
    found = errors(small)
    total = drift_of(found, timesteps, opened.levels)
    if not total <= MOST_DRIFT:
        raise OutputError(
            f"the UNet is too inexact in int8 (its errors add up to {total:.2f} of the noise, {MOST_DRIFT:g} is the "
            "most); export without int8, nothing was written"
        )
    file = folder / INT8_UNET
    file.parent.mkdir()
    openvino.save_model(small, file, compress_to_fp16=False)
    shares = judged(folder, pack, adapter, _with_int8(folder, trial))
    phase.step()
    by_level = {str(timestep): round(error, 5) for timestep, error in zip(timesteps, found, strict=True)}
    return Int8(by_level, round(total, 5), kept, shares)


def _quantized(model: Any, ranges: list[Feeds]) -> Any:
    """NNCF's answer; its bars are not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(ranges),
            subset_size=len(ranges),
            model_type=nncf.ModelType.TRANSFORMER,
        )


def _with_int8(folder: Path, trial: Path) -> Path:
    """A folder beside the exported one whose manifest knows the quantised UNet; files are linked."""
    shutil.copytree(folder, trial, copy_function=os.link)
    (trial / MANIFEST).unlink()  # or the other would be written, too
    about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    about["files"] |= _files(folder)
    (trial / MANIFEST).write_text(json.dumps(about), encoding="utf-8")
    return trial


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """What a manifest says of the quantised UNet's files."""
    files = sorted((folder / INT8_UNET).parent.iterdir())
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in files
    }
