"""What the first version wrote still loads and draws the same pictures: a pack, an adapter and an ONNX folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdk import ConceptPack, Personalizer

DATA = Path(__file__).parents[1] / "data" / "first-version"
PROMPT = "a <new1> cat and a <new2> dog"
DRAWING = {"seed": 7, "num_inference_steps": 5}


def same(image: Image.Image, name: str) -> None:
    """Processors round differently, so a level of 255 may turn; another picture differs by tens."""
    with Image.open(DATA / name) as opened:
        recorded = np.asarray(opened.convert("RGB"), np.int16)
    assert np.abs(np.asarray(image, np.int16) - recorded).max() <= 2


def test_a_pack_draws_the_same_pictures():
    personalizer = Personalizer.from_pretrained(DATA / "model", device="cpu")
    pack = ConceptPack.from_pretrained(DATA / "pack")
    same(personalizer.generate(PROMPT, concepts=pack, **DRAWING).images[0], "torch.png")


def test_an_adapter_and_an_onnx_folder_draw_the_same_pictures():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from sdk.deploy import OnnxPersonalizer

    deployed = OnnxPersonalizer.from_pretrained(DATA / "onnx", engine="onnxruntime")
    deployed.add_pack("mine", DATA / "pack.onnx_adapter")
    same(deployed.generate(PROMPT, packs="mine", **DRAWING).images[0], "onnx.png")
    same(deployed.generate("a cat", **DRAWING).images[0], "onnx-plain.png")
