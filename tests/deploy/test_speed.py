"""Levels of speed on exported folders: the pictures of the torch path."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Personalizer
from sdk.deploy import OnnxPersonalizer
from sdk.deploy.onnx_folder import MANIFEST
from sdk.errors import BaseModelError
from sdk.images.record import record_of

PROMPTS = ["a cat on the beach", "a red dog"]


@pytest.fixture(scope="module")
def sides(tiny_model, shared_export):
    runtime = OnnxPersonalizer.from_pretrained(shared_export, engine="onnxruntime")
    return Personalizer.from_pretrained(tiny_model, device="cpu"), runtime


def error(ours, theirs) -> float:
    pairs = zip(ours.images, theirs.images, strict=True)
    return max(float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()) for a, b in pairs)


@pytest.mark.parametrize("speed", ["balanced", "fast"])
def test_both_sides_draw_the_same(sides, speed):
    asked = {"seed": 2, "speed": speed, "guidance_scale": 3.0, "negative_prompt": "a car"}
    want, got = (side.generate(PROMPTS, **asked) for side in sides)
    assert error(got, want) < 0.2
    assert got.notes == want.notes
    mine, other = record_of(got.images[0]), record_of(want.images[0])
    assert (mine.steps, mine.speed) == (other.steps, other.speed) == (20, speed)


def test_pictures_are_drawn_from_at_speed(sides, picture):
    asked = {"seed": 2, "speed": "fast", "strength": 0.7}
    want, got = (side.img2img(picture, "a cat", **asked) for side in sides)
    assert error(got, want) < 0.2


def test_openvino_reuses_too(sides, shared_export):
    pytest.importorskip("openvino", reason="openvino is not installed")
    loaded = OnnxPersonalizer.from_pretrained(shared_export, engine="openvino", precision="fp32")
    asked = {"seed": 2, "speed": "fast", "guidance_scale": 3.0}
    assert error(loaded.generate(PROMPTS, **asked), sides[1].generate(PROMPTS, **asked)) < 0.2
    assert len(loaded.model.graphs["unet_shallow"]._compiled) == 2  # rows with and without negative prompts


@pytest.fixture
def older(shared_export, tmp_path):
    """A folder as earlier versions wrote it."""
    folder = shutil.copytree(shared_export, tmp_path / "older")
    shutil.rmtree(folder / "unet_shallow")
    about = json.loads((folder / MANIFEST).read_text())
    about["files"] = {name: entry for name, entry in about["files"].items() if not name.startswith("unet_shallow")}
    (folder / MANIFEST).write_text(json.dumps(about))
    return folder


def test_folders_of_earlier_versions_draw_whole_steps(older):
    loaded = OnnxPersonalizer.from_pretrained(older, engine="onnxruntime")
    drawn = loaded.generate("a cat", seed=2, speed="fast")
    assert any("which holds no unet_shallow; export the model again" in note for note in drawn.notes)
    assert loaded.generate("a cat", seed=2, speed="balanced").notes == []


def test_a_shallow_graph_that_takes_something_else_is_refused(shared_export, tmp_path):
    folder = shutil.copytree(shared_export, tmp_path / "other")
    shutil.copy(folder / "vae_decoder" / "model.onnx", folder / "unet_shallow" / "model.onnx")
    about = json.loads((folder / MANIFEST).read_text())
    about["files"]["unet_shallow/model.onnx"] = about["files"]["vae_decoder/model.onnx"]
    (folder / MANIFEST).write_text(json.dumps(about))
    with pytest.raises(BaseModelError, match=r"unet_shallow/model\.onnx takes or gives something else"):
        OnnxPersonalizer.from_pretrained(folder, engine="onnxruntime")
