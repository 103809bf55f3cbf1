"""Quantised UNets: written where they are good enough, and drawn by OpenVINO."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openvino", reason="openvino is not installed")
pytest.importorskip("nncf", reason="nncf is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Concept, ConceptPack, Personalizer
from sdk.deploy import OnnxPersonalizer
from sdk.deploy.onnx_folder import MANIFEST, check_folder
from sdk.deploy.samplers.levels import Levels
from sdk.disk.checked import Table
from sdk.errors import InputError, OutputError
from sdk.eval.scores import Scores
from sdk.exports.int8 import quality, quantize_folder
from sdk.exports.int8.quality import drift_of
from sdk.exports.int8.sensitive import groups_of, sensitive_groups
from sdk.families.layers import cross_attention_layers
from sdk.runtime import Cancelled

ASKED = {"seed": 3, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def pack(tiny_model):
    base = Personalizer.from_pretrained(tiny_model, device="cpu")
    pairs = {
        name: (layer.to_k.weight.detach(), layer.to_v.weight.detach())
        for name, layer in cross_attention_layers(base.pipe.unet).items()
    }
    rows = base.pipe.text_encoder.get_input_embeddings().weight[[7]].detach().clone()
    reference = Image.new("RGB", (32, 32), "red")
    return ConceptPack([Concept("cat", "<new1>")], base.base, pairs, rows, reference=reference)


@pytest.fixture(scope="module", params=["as it was", pytest.param("by NNCF", marks=pytest.mark.slow)])
def quantized(request, shared_export, pack, tmp_path_factory):
    """A folder with a quantised UNet, and what was found; NNCF takes a minute, another graph goes the same way."""
    folder = shutil.copytree(shared_export, tmp_path_factory.mktemp("int8") / "folder")
    events = []
    with pytest.MonkeyPatch.context() as patched:  # a tiny model needs little to be told
        patched.setattr("sdk.exports.int8.feeds._LEVELS", 4)
        if request.param == "as it was":
            patched.setattr("sdk.exports.int8.quantizing._quantized", lambda model, ranges: model)
            patched.setattr("sdk.exports.int8.quantizing.sensitive_groups", lambda *given: ["conv_in"])
        patched.setattr("sdk.exports.int8.quantizing.prompts_for", lambda pack: ["a dog", "a cat", pack.prompt])
        found = quantize_folder(folder, pack, True, events.append)
    assert [(e.phase, e.done) for e in events] == [("quantize", done) for done in range(5)]
    return folder, found


def test_the_folder_is_whole_and_says_what_was_measured(quantized):
    folder, found = quantized
    assert check_folder(folder, all_hashes=True).has_int8
    assert sorted(p.name for p in (folder / "unet_int8").iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    about = json.loads((folder / MANIFEST).read_text())["int8"]
    assert about == found.to_dict()
    assert len(about["errors"]) == 4
    assert 0 <= about["drift"] <= quality.MOST_DRIFT
    assert not [p for p in folder.parent.iterdir() if p != folder]


def test_it_is_drawn_where_it_is_there_and_is_near_float32(quantized, shared_export):
    folder, _ = quantized
    small = OnnxPersonalizer.from_pretrained(folder)
    assert "openvino int8" in repr(small.model)
    exact = OnnxPersonalizer.from_pretrained(folder, engine="openvino", precision="fp32")
    other = OnnxPersonalizer.from_pretrained(shared_export, engine="openvino", precision="fp32")
    mine, want, same = (
        np.asarray(o.generate("a cat", height=32, width=48, **ASKED).images[0], float) for o in (small, exact, other)
    )
    assert np.abs(mine - want).mean() < 8
    assert np.array_equal(want, same)
    assert small.generate(["a cat", "a dog", "a car"], speed="fast", seed=1).images  # other batches, deep features


def test_parts_of_a_batch_have_copies_and_large_graphs_none(quantized, monkeypatch):
    """Streams of one quantised graph are prepared at once, and one in six then computes something else."""
    folder, _ = quantized
    monkeypatch.setattr("sdk.deploy.engines.openvino._cores", lambda: 2)
    asked = {"guidance_scale": 3.0, **ASKED}

    def drawn():
        loaded = OnnxPersonalizer.from_pretrained(folder, engine="openvino", precision="int8")
        image = loaded.generate("a cat", **asked).images[0]
        (each,) = loaded.model.graphs["unet"]._compiled.values()
        return image, each

    halves, copies = drawn()
    assert len({id(copy) for copy in copies}) == 2
    assert [copy.get_property("NUM_STREAMS") for copy in copies] == [1, 1]
    monkeypatch.setattr("sdk.deploy.engines.openvino._COPIED", 1)
    whole, alone = drawn()
    assert [copy.get_property("NUM_STREAMS") for copy in alone] == [1]
    assert np.abs(np.asarray(halves, float) - np.asarray(whole, float)).max() <= 2


def test_errors_that_are_too_large_write_nothing(shared_export, tmp_path, monkeypatch):
    folder = shutil.copytree(shared_export, tmp_path / "folder")
    monkeypatch.setattr("sdk.exports.int8.quantizing._quantized", lambda model, ranges: model)
    monkeypatch.setattr("sdk.exports.int8.quantizing.sensitive_groups", lambda *given: [])
    monkeypatch.setattr("sdk.exports.int8.quantizing.MOST_DRIFT", -1.0)
    with pytest.raises(OutputError, match="too inexact in int8 .* export without int8, nothing was written"):
        quantize_folder(folder, None, True)
    assert not (folder / "unet_int8").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


class Harsh:
    """A scorer by which the second picture of everything is worse."""

    seen = 0

    def knows(self, concepts, resolution):
        return True

    def look_at(self, reference, concepts, masks=None):
        assert reference.size == (32, 32)

    def prompts(self, concepts, count):
        from sdk.eval.prompt_sets import Prompt

        return [Prompt("a <new1> cat", "a cat", (0,), None)]

    def score(self, drawn):
        Harsh.seen += 1
        assert all(len(d.images) == 4 for d in drawn)
        return Scores([[1.0]], [1.0 - 0.05 * (Harsh.seen - 1)], [1.0], None, 1.0, [1.0])


def test_pictures_that_are_judged_worse_are_refused(quantized, pack, tmp_path, monkeypatch):
    folder, _ = quantized
    adapter = pack.export_adapter(tmp_path / "pack.onnx_adapter")
    monkeypatch.setattr(Harsh, "seen", 0)  # whatever other tests showed it
    monkeypatch.setattr(quality, "registered_scorers", lambda: [Harsh()])
    with pytest.raises(OutputError, match="pictures in int8 are worse \\(recognised 0.95 instead of 1.00\\)"):
        quality.judged(folder, pack, adapter, folder)
    monkeypatch.setattr(quality, "WORSE", 0.2)
    assert quality.judged(folder, pack, adapter, folder) == {"recognised": [0.9, 0.85], "once": [1.0, 1.0]}


def test_cancelling(shared_export, tmp_path):
    folder = shutil.copytree(shared_export, tmp_path / "folder")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        quantize_folder(folder, None, True, None, cancel)
    assert not check_folder(folder).has_int8


def test_layers_are_known_by_their_weights_and_the_sensitive_ones_found(shared_export):
    import openvino

    model = openvino.Core().read_model(shared_export / "unet" / "model.onnx")
    groups = groups_of(model)
    assert {"conv_in", "conv_out", "time_embedding", "mid_block.resnets.0", "products of attention"} <= set(groups)
    assert len(sum(groups.values(), [])) == len(set(sum(groups.values(), [])))
    errors = {"conv_in": 0.5, "conv_out": 0.97}  # what is left of the error without each

    def drift(candidate):
        return next((errors.get(name, 1.0) for name in groups if candidate is name), 1.0)

    def without(model, names):
        return next(name for name, own in groups.items() if own is names)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdk.exports.int8.sensitive.unquantized", without)
        assert sensitive_groups(model, groups, drift) == ["conv_in"]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_errors_add_up_as_latents_drift(kind):
    """A drawing by DDIM's own formula, with a small error in every prediction."""
    about = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    levels = Levels({**about, "prediction_type": kind, "clip_sample": False, "set_alpha_to_one": False})
    timesteps, error = [901, 701, 501, 301, 101], 1e-3

    def drawn(wrong):
        sample = 0.3
        for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
            a, s = np.sqrt(levels.alphas[t]), np.sqrt(1 - levels.alphas[t])
            b, r = (1.0, 0.0) if after is None else (np.sqrt(levels.alphas[after]), np.sqrt(1 - levels.alphas[after]))
            # A prediction that depends on nothing, so that errors add up and nothing else.
            answer = 0.2 + wrong
            if kind == "epsilon":
                clean, noise = (sample - s * answer) / a, answer
            else:
                clean, noise = a * sample - s * answer, s * sample + a * answer
            sample = b * clean + r * noise
        return sample

    found = drift_of([error] * 5, timesteps, levels)
    assert 0.3 < abs(drawn(error) - drawn(0.0)) / found < 3
    assert isinstance(levels.about, Table)


def test_what_quantises_must_be_installed(personalizer, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(InputError, match=r"int8 needs nncf; run: pip install 'personalizer-sdk\[int8\]'"):
        personalizer.export_onnx(tmp_path / "out", int8=True)
    assert not list(tmp_path.iterdir())
