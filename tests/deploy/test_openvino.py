"""Exported folders in OpenVINO: what ONNX Runtime draws, in every precision that is there."""

from __future__ import annotations

import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openvino", reason="openvino is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Concept, ConceptPack, Personalizer
from sdk.deploy import Cancelled, OnnxPersonalizer
from sdk.deploy.engines import choose_engine
from sdk.deploy.engines.openvino import OpenVino
from sdk.errors import BaseModelError, InputError, NotFiniteError
from sdk.families.layers import cross_attention_layers

ASKED = {"num_inference_steps": 4, "seed": 5}
PROMPT = "a <new1> cat on the beach"


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """A pack whose K is far from the base model's."""
    base = Personalizer.from_pretrained(tiny_model, device="cpu")
    pairs = {
        name: (2 * layer.to_k.weight.detach(), layer.to_v.weight.detach())
        for name, layer in cross_attention_layers(base.pipe.unet).items()
    }
    rows = base.pipe.text_encoder.get_input_embeddings().weight[[7]].detach().clone()
    pack = ConceptPack([Concept("cat", "<new1>")], base.base, pairs, rows)
    return pack.export_adapter(tmp_path_factory.mktemp("packs") / "far.onnx_adapter")


def opened(folder, adapter, engine="openvino", precision="fp32"):
    loaded = OnnxPersonalizer.from_pretrained(folder, engine=engine, precision=precision)
    loaded.add_pack("far", adapter)
    return loaded


@pytest.fixture(scope="module")
def ours(shared_export, adapter):
    return opened(shared_export, adapter)


@pytest.fixture(scope="module")
def theirs(shared_export, adapter):
    return opened(shared_export, adapter, "onnxruntime", "auto")


def error(one: Image.Image, other: Image.Image) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_rows_of_different_packs_are_those_of_onnx_runtime(ours, theirs):
    prompts, names = [PROMPT, "a cat on the beach"], ["far", None]
    mine, other = (o.generate(prompts, concepts=names, num_images=2, **ASKED).images for o in (ours, theirs))
    assert max(map(error, mine, other)) < 0.2
    plain = theirs.generate("a cat on the beach", num_images=2, **ASKED).images
    assert error(mine[0], plain[0]) > 2  # the pack does something


def test_img2img_and_inpaint(ours, theirs):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    hole = Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 8))
    for call in (
        lambda o: o.img2img(picture, PROMPT, concepts="far", **ASKED).images[0],
        lambda o: o.inpaint(picture, hole, PROMPT, concepts="far", **ASKED).images[0],
    ):
        assert error(call(ours), call(theirs)) < 0.2


def test_bf16_is_near_and_not_the_same(shared_export, adapter, theirs):
    if "bf16" not in str(choose_engine("openvino", "auto", None, False).precision):
        with pytest.raises(InputError, match="this processor does not compute in bf16; take precision='auto'"):
            opened(shared_export, adapter, precision="bf16")
        return
    loaded = opened(shared_export, adapter, precision="bf16")
    assert repr(loaded.model).startswith("ExportedModel(shared, openvino bf16, of ")
    want = theirs.generate(PROMPT, concepts="far", **ASKED).images[0]
    assert 0 < error(loaded.generate(PROMPT, concepts="far", **ASKED).images[0], want) < 3


def test_sizes_are_compiled_when_first_used_and_the_last_are_kept(shared_export, adapter, monkeypatch):
    monkeypatch.setattr("sdk.deploy.engines.openvino._KEPT_SMALL", 2)
    loaded = opened(shared_export, adapter)
    compiled = loaded.model.graphs["unet"]._compiled
    for height, width in ((32, 32), (32, 48), (32, 32), (48, 32)):
        drawn = loaded.generate("a cat", height=height, width=width, **ASKED).images[0]
        assert drawn.size == (width, height)
    assert [key[1][-2:] for key in compiled] == [(16, 16), (24, 16)]


@pytest.mark.parametrize("count", [1, 3])
def test_halves_of_a_batch_side_by_side_are_the_whole(shared_export, adapter, monkeypatch, count):
    asked = {"concepts": "far", "num_images": count, **ASKED}
    halves = opened(shared_export, adapter).generate(PROMPT, **asked).images
    monkeypatch.setattr("sdk.deploy.engines.openvino._cores", lambda: 1)
    loaded = opened(shared_export, adapter)
    whole = loaded.generate(PROMPT, **asked).images
    assert [key[0] for key in loaded.model.graphs["unet"]._compiled] == [1]
    assert max(error(a, b) for a, b in zip(halves, whole, strict=True)) <= 1


def test_what_was_compiled_is_kept_on_disk(shared_export, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "own"))
    first, again = (opened(shared_export, adapter) for _ in range(2))
    pictures = [o.generate("a cat", **ASKED).images[0].tobytes() for o in (first, again)]
    assert pictures[0] == pictures[1]
    assert os.listdir(tmp_path / "own" / "openvino")
    ((from_disk, *_),) = again.model.graphs["unet"]._compiled.values()
    assert from_disk.get_property("LOADED_FROM_CACHE")


def test_the_cache_stays_within_bounds(shared_export, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("sdk.deploy.engines.openvino._CACHE", 1)
    for side in (32, 40, 48, 56):
        opened(shared_export, adapter).generate("a cat", height=side, **ASKED)
    assert len(os.listdir(tmp_path / "own" / "openvino")) <= 4


def test_without_a_cache_it_draws_all_the_same(shared_export, adapter, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "file"))
    opened(shared_export, adapter).generate("a cat", **ASKED)
    assert "cannot be kept in" in caplog.text


def test_threads_share_an_instance(ours):
    def draw(seed):
        return ours.generate(PROMPT, concepts="far", num_inference_steps=3, seed=seed).images[0].tobytes()

    want = {seed: draw(seed) for seed in range(4)}
    got: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda seed=seed: got.update({seed: draw(seed)})) for seed in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


def test_cancelling_between_steps(ours):
    cancel, events = threading.Event(), []

    def told(event):
        events.append(event.done)
        if event.done == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        ours.generate("a cat", progress=told, cancel=cancel, **ASKED)
    assert events == [0, 1, 2]


def test_guidance_that_overflows_draws_nothing(shared_export, adapter):
    with pytest.raises(NotFiniteError, match="nothing was drawn"):
        opened(shared_export, adapter).generate("a cat", guidance_scale=1e38, **ASKED)


def test_a_damaged_graph_is_one_sentence(shared_export, tmp_path):
    folder = shutil.copytree(shared_export, tmp_path / "damaged")
    graph = folder / "unet" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[:200] = bytes(200)
    graph.write_bytes(content)
    with pytest.raises(BaseModelError, match=r"unet.model\.onnx is damaged"):
        OnnxPersonalizer.from_pretrained(folder, engine="openvino")


WRONG = [
    ({"engine": "tensorrt"}, "engine must be one of auto, onnxruntime, openvino, got 'tensorrt'"),
    ({"precision": "fp8"}, "precision must be one of auto, fp32, bf16, int8, got 'fp8'"),
    ({"engine": "onnxruntime", "precision": "bf16"}, "precision is OpenVINO's"),
    ({"engine": "openvino", "providers": ["CPUExecutionProvider"]}, "providers are ONNX Runtime's"),
    ({"precision": "int8"}, "this folder holds no int8 UNet; export with --int8"),
]


@pytest.mark.parametrize(("asked", "message"), WRONG)
def test_wrong_engines_are_one_sentence(shared_export, asked, message):
    with pytest.raises(InputError, match=message):
        OnnxPersonalizer.from_pretrained(shared_export, **asked)


def test_the_engine_is_chosen_by_what_is_installed(monkeypatch):
    assert isinstance(choose_engine("auto", "auto", None, False), OpenVino)
    assert choose_engine("auto", "auto", ["CPUExecutionProvider"], False).name == "onnxruntime"
    monkeypatch.setattr("sdk.deploy.engines.find_spec", lambda name: None)
    assert choose_engine("auto", "auto", None, False).name == "onnxruntime"
    for engine, precision in (("openvino", "auto"), ("auto", "bf16")):
        with pytest.raises(InputError, match=r"needs OpenVINO; run: pip install 'personalizer-sdk\[openvino\]'"):
            choose_engine(engine, precision, None, False)
