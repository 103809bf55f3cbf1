"""Adapters and ONNX folders that were damaged: they load whole, or are refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnxruntime as ort

from sdk import Concept, ConceptPack
from sdk.deploy.adapters import ABOUT, ROWS, VERSION, _digest, read_adapter
from sdk.deploy.model import ExportedModel
from sdk.deploy.onnx_folder import MANIFEST, check_folder
from sdk.errors import BaseModelError, InputError, MissingFileError, NotFiniteError, PackError
from tests.reading.mutations import changed_bytes, changed_table, changed_tensors, read_or_refused

FIRST = Path(__file__).parents[1] / "data" / "first-version"


@pytest.fixture
def stored():
    """The arrays of an adapter, and what it says about itself."""
    opened = ort.AdapterFormat.read_adapter(str(FIRST / "pack.onnx_adapter"))
    values = {name: np.array(value.numpy()) for name, value in opened.get_parameters().items()}
    return values, json.loads(bytes(values.pop(ABOUT)))


def write(path, values, about):
    """Write an adapter whose hash is right, whatever it holds."""
    about = {**about, "sha256": _digest(values)} if isinstance(about, dict) and "sha256" in about else about
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    arrays = {**values, ABOUT: text}
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()})
    adapter.export_adapter(str(path))
    return path


def is_whole(adapter):
    arrays = [adapter.rows, *adapter.weights.values()]
    return all(np.isfinite(a).all() for a in arrays) and {a.shape[1] for a in arrays} == {adapter.base.context}


def test_changed_descriptions(stored, tmp_path):
    rng = random.Random(0)
    values, about = stored
    refused = 0
    for _ in range(200):
        write(tmp_path / "a", values, changed_table(about, rng))
        found = read_or_refused(lambda: read_adapter(tmp_path / "a"))
        assert found is None or is_whole(found)
        refused += found is None
    assert 60 < refused < 200


def test_changed_arrays(stored, tmp_path):
    rng = random.Random(1)
    values, about = stored
    tensors = {name: torch.from_numpy(value) for name, value in values.items()}
    refused = 0
    for _ in range(200):
        arrays = {n: t for n, t in changed_tensors(tensors, rng).items() if t.dtype is not torch.bfloat16 and n}
        try:
            write(tmp_path / "a", {n: t.numpy() for n, t in arrays.items()}, about)
        except (RuntimeError, ValueError, NotImplementedError):
            continue  # the format cannot hold it
        found = read_or_refused(lambda: read_adapter(tmp_path / "a"))
        assert found is None or is_whole(found)
        refused += found is None
    assert refused > 100


def test_changed_bytes(tmp_path):
    rng = random.Random(2)
    content = (FIRST / "pack.onnx_adapter").read_bytes()
    for _ in range(200):
        (tmp_path / "a").write_bytes(changed_bytes(content, rng))
        found = read_or_refused(lambda: read_adapter(tmp_path / "a"))
        assert found is None or is_whole(found)


def test_an_adapter_that_is_not_finite(stored, tmp_path):
    values, about = stored
    values[ROWS][0, 0] = np.nan
    with pytest.raises(NotFiniteError, match=ROWS):
        read_adapter(write(tmp_path / "a", values, about))


def test_no_adapter(tmp_path):
    with pytest.raises(MissingFileError, match="no adapter"):
        read_adapter(tmp_path / "none")
    with pytest.raises(PackError, match="is a folder"):
        read_adapter(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(PackError, match="no regular file"):
            read_adapter(tmp_path / "pipe")


def test_reprs_are_short():
    assert repr(read_adapter(FIRST / "pack.onnx_adapter")) == "Adapter(<new1> cat, <new2> dog; 8 weights on model)"
    model = ExportedModel.load(FIRST / "onnx", engine="onnxruntime")
    assert repr(model) == "ExportedModel(shared, onnxruntime float32, of model)"


def test_an_adapter_whose_arrays_have_no_place_in_the_model(shared_personalizer, tmp_path):
    """Its fingerprint is the model's, its layers are twice as wide."""
    model = ExportedModel.load(FIRST / "onnx")
    model.check_adapter(read_adapter(FIRST / "pack.onnx_adapter"), "it")
    pack = ConceptPack.from_pretrained(FIRST / "pack")
    wide = {layer: (k.repeat(2, 1), v.repeat(2, 1)) for layer, (k, v) in pack.key_value.items()}
    ConceptPack(pack.concepts, pack.base, wide, pack.embeddings).export_adapter(tmp_path / "wide")
    with pytest.raises(BaseModelError, match="wide belongs to another base model"):
        model.check_adapter(read_adapter(tmp_path / "wide"), "wide")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIRST / "onnx", tmp_path / "onnx"))


def put(folder, name, text):
    """Write a file of the folder, and its size and hash."""
    (folder / name).write_text(text)
    content = (folder / name).read_bytes()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_changed_manifests(folder):
    rng = random.Random(3)
    manifest = json.loads((folder / MANIFEST).read_text())
    refused = 0
    for _ in range(300):
        (folder / MANIFEST).write_text(json.dumps(changed_table(manifest, rng)))
        found = read_or_refused(lambda: check_folder(folder))
        refused += found is None
    assert refused > 150


CONFIGURATIONS = ("unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")


def test_changed_configurations(folder, monkeypatch):
    """Graphs are left out: they are not changed, and opening them takes the time."""
    rng = random.Random(4)
    module = sys.modules[ExportedModel.__module__]
    monkeypatch.setattr(module, "Graph", lambda *_: None)
    monkeypatch.setattr(module, "_check_graphs", lambda *_: None)
    manifest = (folder / MANIFEST).read_text()
    refused = 0
    for turn in range(300):
        name = (*CONFIGURATIONS, "tokenizer/tokenizer.json")[turn % 4]
        before = (folder / name).read_text()
        (folder / MANIFEST).write_text(manifest)
        put(folder, name, json.dumps(changed_table(json.loads(before), rng)))
        found = read_or_refused(lambda: ExportedModel.load(folder))
        if found is not None:
            ids = found.tokenizer.ids("a <new1> cat on the beach", [Concept("cat", "<new1>")])
            assert ids.shape == (found.tokenizer.length,)
            assert ids.max() < found.tokenizer.table_size + 8
            assert np.isfinite(found.levels.alphas).all()
        refused += found is None
        (folder / name).write_text(before)
    assert refused > 30


def test_changed_graphs(folder):
    rng = random.Random(5)
    manifest = (folder / MANIFEST).read_text()
    for turn in range(12):
        name = ("kv_projection/model.onnx", "vae_encoder/model.onnx")[turn % 2]
        before = (folder / name).read_bytes()
        (folder / MANIFEST).write_text(manifest)
        (folder / name).write_bytes(changed_bytes(before, rng))
        assert read_or_refused(lambda: check_folder(folder, all_hashes=True)) is None
        (folder / name).write_bytes(before)


def test_graphs_in_each_others_places(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    shutil.copy(folder / "vae_encoder/model.onnx", folder / "vae_decoder/model.onnx")
    manifest["files"]["vae_decoder/model.onnx"] = manifest["files"]["vae_encoder/model.onnx"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BaseModelError, match="takes or gives something else"):
        ExportedModel.load(folder)
    manifest["kind"] = "merged"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BaseModelError, match="takes or gives something else"):
        ExportedModel.load(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "C:x", "a\0b", "CON", "", "unet//x"])
def test_files_outside_of_the_folder(folder, name):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BaseModelError, match=r"outside its folder|usable name"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("providers", "message"),
    [("NoProvider", "has no NoProvider;"), ([5], "has no 5;"), ([], "no provider")],
)
def test_providers_that_are_none(folder, providers, message):
    with pytest.raises(InputError, match=message):
        ExportedModel.load(folder, providers)


def test_one_tokenizer_serves_every_pack():
    """Memory does not grow with the packs that were ever seen; ids are those of a tokenizer that knows the tokens."""
    from tokenizers import Tokenizer

    ours = ExportedModel.load(FIRST / "onnx").tokenizer
    before = set(vars(ours))
    text = "a <a-1> cat, a <b_2> dog and a<a-1>cat <new1>"
    for tokens in (("<a-1>", "<b_2>"), ("<b_2>", "<a-1>"), ("<new1>",), ()):
        concepts = [Concept("cat", token) for token in tokens]
        theirs = Tokenizer.from_file(str(FIRST / "onnx/tokenizer/tokenizer.json"))
        theirs.add_special_tokens(list(tokens))
        theirs.enable_truncation(ours.length)
        pad = theirs.token_to_id("<|endoftext|>")
        theirs.enable_padding(pad_id=pad, pad_token="<|endoftext|>", length=ours.length)
        places = {theirs.token_to_id(token): ours.table_size + slot for slot, token in enumerate(tokens)}
        assert ours.ids(text, concepts).tolist() == [places.get(i, i) for i in theirs.encode(text).ids]
    assert set(vars(ours)) == before
    plain = ours.ids("a cat", [])
    assert np.array_equal(ours.ids("a﷐ cat", [Concept("cat", "<new1>")]), plain)


def test_a_decoder_that_answers_no_numbers_is_no_black_picture():
    from sdk.deploy.pixels import from_pixels

    values = np.zeros((3, 8, 8), np.float32)
    values[1, 2, 3] = np.nan
    with pytest.raises(NotFiniteError, match="float32"):
        from_pixels(values)
