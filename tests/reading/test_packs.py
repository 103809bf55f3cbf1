"""Packs on disk that were damaged or made to do harm: they load whole, or are refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load, save

from sdk import Concept, ConceptPack
from sdk.errors import InputError, NotFiniteError, PackError, SdkError
from sdk.pack import MANIFEST, UNET, WEIGHTS
from tests.reading.mutations import changed_bytes, changed_table, changed_tensors, is_whole, read_or_refused


@pytest.fixture
def folder(pack, tmp_path):
    return pack.save_pretrained(tmp_path / "pack")


def put(folder, name, content):
    """Write a file of a pack, and its hash."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def load_pack(folder):
    found = read_or_refused(lambda: ConceptPack.from_pretrained(folder))
    assert found is None or is_whole(found)
    return found


def test_changed_manifests(folder):
    rng = random.Random(0)
    manifest = json.loads((folder / MANIFEST).read_text())
    refused = 0
    for _ in range(300):
        (folder / MANIFEST).write_text(json.dumps(changed_table(manifest, rng)))
        refused += load_pack(folder) is None
    assert 100 < refused < 300


def test_changed_tensors(folder):
    rng = random.Random(1)
    manifest = (folder / MANIFEST).read_text()
    refused = 0
    for turn in range(240):
        (folder / MANIFEST).write_text(manifest)
        name = (WEIGHTS, UNET, "new1.safetensors")[turn % 3]
        before = (folder / name).read_bytes()
        put(folder, name, save(changed_tensors(load(before), rng)))
        refused += load_pack(folder) is None
        (folder / name).write_bytes(before)
    assert refused > 100


def test_changed_bytes(folder):
    rng = random.Random(2)
    manifest = (folder / MANIFEST).read_bytes()
    for turn in range(240):
        (folder / MANIFEST).write_bytes(manifest)
        name = (WEIGHTS, "new1.safetensors", "reference.png", MANIFEST)[turn % 4]
        before = (folder / name).read_bytes()
        if name == MANIFEST:
            (folder / name).write_bytes(changed_bytes(before, rng))
        else:
            put(folder, name, changed_bytes(before, rng))
        load_pack(folder)
        (folder / name).write_bytes(before)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format_version": NaN}', '{"format_version": ' + "9" * 5000 + "}", "[]", "{"]
)
def test_json_that_is_no_manifest(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(PackError, match="is damaged"):
        ConceptPack.from_pretrained(folder)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such pipes")
def test_what_is_no_regular_file(folder):
    for name in (MANIFEST, WEIGHTS):
        (folder / name).rename(folder / "kept")
        os.mkfifo(folder / name)
        with pytest.raises(PackError, match="no regular file"):
            ConceptPack.from_pretrained(folder)
        os.remove(folder / name)
        os.symlink("kept", folder / name)  # as the Hub's cache keeps files
        if name == MANIFEST:
            ConceptPack.from_pretrained(folder)
        os.remove(folder / name)
        (folder / "kept").rename(folder / name)
    with (folder / MANIFEST).open("ab") as file:
        file.truncate(5 << 20)
    with pytest.raises(PackError, match="more than the"):
        ConceptPack.from_pretrained(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), 1e5])  # the last overflows float16
def test_a_pack_that_is_not_finite_goes_nowhere(pack, shared_personalizer, tmp_path, bad):
    from sdk.exports import diffusers_layout, lora, webui

    layer = next(iter(pack.key_value))
    key, value = pack.key_value[layer]
    broken = key.float().clone()
    broken[0, 0] = bad
    wrong = ConceptPack(pack.concepts, pack.base, {**pack.key_value, layer: (broken, value)}, pack.embeddings)
    for act in (
        lambda: wrong.save_pretrained(tmp_path / "saved"),
        lambda: wrong.export_adapter(tmp_path / "a.onnx_adapter"),
        lambda: lora.export(wrong, shared_personalizer, tmp_path / "lora"),
        lambda: webui.export(wrong, shared_personalizer, tmp_path / "webui"),
        lambda: diffusers_layout.export(wrong, shared_personalizer, tmp_path / "layout"),
        lambda: shared_personalizer.export_onnx(tmp_path / "onnx", concepts=wrong),
    ):
        with pytest.raises(NotFiniteError, match="overflow float16"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_changes_that_overflow_are_not_exported(pack, shared_personalizer, tmp_path):
    """Trained and base weights fit into float16, their difference does not."""
    from sdk.exports import webui

    layer = next(iter(pack.key_value))
    module = shared_personalizer.pipe.unet.get_submodule(layer).to_k
    before = module.weight.detach().clone()
    key, value = pack.key_value[layer]
    large = ConceptPack(pack.concepts, pack.base, {layer: (torch.full_like(key, 60000), value)}, pack.embeddings)
    try:
        with torch.no_grad():
            module.weight.fill_(-60000)
        large.base = shared_personalizer.base  # the norms that were taken before
        with pytest.raises(NotFiniteError, match="the export"):
            webui.export(large, shared_personalizer, tmp_path)
    finally:
        with torch.no_grad():
            module.weight.copy_(before)


def test_names_never_come_from_tokens(pack, tmp_path):
    """``<unet>`` would overwrite the UNet's weights, ``<CON>`` is a device, ``<NEW1>`` is ``<new1>`` on many disks."""
    for tokens in (("<unet>", "<CON>"), ("<new2>", "<new1>"), ("<personalizer>", "<reference>")):
        concepts = [Concept(c.noun, token) for c, token in zip(pack.concepts, tokens, strict=True)]
        renamed = ConceptPack(concepts, pack.base, pack.key_value, pack.embeddings, unet=pack.unet)
        folder = renamed.save_pretrained(tmp_path / "pack")
        assert {f.name for f in folder.iterdir()} == {
            MANIFEST, WEIGHTS, UNET, "new1.safetensors", "new2.safetensors", "README.md",
        }  # fmt: skip
        again = ConceptPack.from_pretrained(folder)
        assert again.tokens == list(tokens)
        assert again.content_hash() == renamed.content_hash()
        shutil.rmtree(folder)
    for token in ("<../../evil>", "<new1>", "<" + "x" * 70 + ">"):
        concepts = [pack.concepts[0], Concept("dog", token)]
        with pytest.raises(InputError):
            ConceptPack(concepts, pack.base, pack.key_value, pack.embeddings).save_pretrained(tmp_path / "evil")
    assert list(tmp_path.iterdir()) == []


def test_a_pack_without_names_of_files_is_one_of_the_first_version(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["concepts"][0] = {"token": "<mine>", "class": "cat"}
    del manifest["content_sha256"]  # of another token
    row = load((folder / "new1.safetensors").read_bytes())["<new1>"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    put(folder, "mine.safetensors", save({"<mine>": row}))
    pack = ConceptPack.from_pretrained(folder)
    assert pack.tokens == ["<mine>", "<new2>"]
    assert torch.equal(pack.embeddings[0], row)


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([{"token": "<../../evil>", "class": "cat"}], "angle brackets"),
        ([{"token": "<new1>", "class": "cat\x1b[31m"}], "plain characters"),
        ([{"token": "<new1>", "class": "cat"}, {"token": "<new1>", "class": "dog"}], "token of its own"),
        ([{"token": "<new1>", "class": "cat", "file": "../new1.safetensors"}], "no file of a token"),
        ([{"token": "<new1>", "class": "cat", "file": UNET}], "no file of a token"),
        ([{"token": "<new2>", "class": "cat", "file": "new1.safetensors"}], "does not hold"),
        ([{"token": f"<new{i}>", "class": "cat"} for i in range(9)], "at most 8"),
        ([], "no concepts"),
    ],
)
def test_concepts_of_a_file_are_checked_as_a_users(folder, concepts, message):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"concepts": concepts}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PackError, match=message):
        ConceptPack.from_pretrained(folder)


def test_what_the_manifest_says_is_learned_is(folder):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"content_sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PackError, match="is not what its manifest says"):
        ConceptPack.from_pretrained(folder)


def test_nouns_of_earlier_versions(folder):
    """A comma, and tokens that differ in capital letters alone, are refused where a person types them alone."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["concepts"][0]["class"] = "cat, dog"
    del manifest["content_sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    pack = ConceptPack.from_pretrained(folder)
    assert pack.concepts[0].noun == "cat, dog"
    pack.save_pretrained(folder.parent / "again")


def test_what_could_not_be_read_again_is_not_written(pack, tmp_path):
    from dataclasses import replace

    from PIL import Image

    for change in (
        {"settings": {"rate": float("nan")}},
        {"provenance": {"when": object()}},
        {"reference": Image.new("RGB", (4, 5))},
        {"embeddings": pack.embeddings[:1]},
        {"concepts": [Concept("cat\n", "<new1>"), Concept("dog", "<new2>")]},
        {"key_value": {"elsewhere.attn2": next(iter(pack.key_value.values()))}},
    ):
        with pytest.raises(SdkError):
            replace(pack, **change).save_pretrained(tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_a_repr_is_short(pack):
    assert repr(pack).startswith("ConceptPack(<new1> cat, <new2> dog; disendiff on ")
    assert len(repr(pack)) < 300
    assert pack.content_hash()[:12] in repr(pack)


def test_a_pack_that_does_not_fit_a_unet(pack, shared_personalizer):
    assert pack.misfit(shared_personalizer.pipe.unet) is None
    layer, (key, value) = next(iter(pack.key_value.items()))
    wide = ConceptPack(pack.concepts, pack.base, {layer: (key.repeat(2, 1), value.repeat(2, 1))}, pack.embeddings)
    assert layer in wide.misfit(shared_personalizer.pipe.unet)
    extra = ConceptPack(pack.concepts, pack.base, {}, pack.embeddings, unet={"nowhere.weight": key})
    assert "nowhere" in extra.misfit(shared_personalizer.pipe.unet)
