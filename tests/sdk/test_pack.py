"""Packs on disk: whole or absent, checked, in a format that other tools know."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from sdk import ConceptPack
from sdk.disk.files import write_bytes
from sdk.errors import MissingFileError, OutputError, PackError


@pytest.fixture(scope="module")
def folder(tiny_model, picture, tmp_path_factory):
    from sdk import FitConfig, Personalizer

    path = tmp_path_factory.mktemp("packs") / "pack"
    config = FitConfig(steps=1, batch_size=2, target_share=1.0, prior="none", target_pool=2)
    Personalizer.from_pretrained(tiny_model, device="cpu").fit(picture, ["cat", "dog"], config=config, output_dir=path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "pack")


def test_round_trip(folder, tmp_path):
    pack = ConceptPack.from_pretrained(folder)
    pack.save_pretrained(tmp_path / "again")
    again = ConceptPack.from_pretrained(tmp_path / "again")
    assert again.content_hash() == pack.content_hash()
    assert again.settings == pack.settings
    assert again.provenance == pack.provenance
    assert again.reference.tobytes() == pack.reference.tobytes()


def test_layout_is_custom_diffusions(folder):
    weights = load_file(folder / "pytorch_custom_diffusion_weights.safetensors")
    pack = ConceptPack.from_pretrained(folder)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    assert f"{layer}.processor.to_k_custom_diffusion.weight" in weights
    assert len(weights) == 2 * len(pack.key_value)
    assert all(w.dtype == torch.float16 for w in weights.values())
    token = load_file(folder / "new1.safetensors")
    assert list(token) == ["<new1>"]
    assert token["<new1>"].ndim == 1


def test_manifest_says_how_to_repeat_the_fit(folder):
    manifest = json.loads((folder / "personalizer.json").read_text())
    assert manifest["concepts"] == [
        {"token": "<new1>", "class": "cat", "file": "new1.safetensors"},
        {"token": "<new2>", "class": "dog", "file": "new2.safetensors"},
    ]
    assert manifest["settings"]["steps"] == 1
    assert manifest["provenance"]["seed"] == 0
    assert set(manifest["provenance"]["libraries"]) == {"personalizer-sdk", "torch", "diffusers", "transformers"}
    assert manifest["base_model"]["fingerprint"]


@pytest.mark.parametrize("name", ["pytorch_custom_diffusion_weights.safetensors", "new2.safetensors", "reference.png"])
def test_a_flipped_byte_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(PackError, match="is damaged"):
        ConceptPack.from_pretrained(copy)


def test_missing_and_foreign_parts(copy, tmp_path):
    with pytest.raises(MissingFileError, match="no pack at"):
        ConceptPack.from_pretrained(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"holds no personalizer\.json"):
        ConceptPack.from_pretrained(tmp_path / "empty")
    (copy / "new1.safetensors").unlink()
    with pytest.raises(PackError, match="lacks new1"):
        ConceptPack.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "update the package"),
        ({"files": {"../secret": "0"}}, "outside itself"),
        ({"method": None, "settings": None}, "lacks method, settings"),
    ],
)
def test_strange_manifests(copy, change, message):
    manifest = json.loads((copy / "personalizer.json").read_text())
    for key, value in change.items():
        if value is None:
            del manifest[key]
        else:
            manifest[key] = value
    (copy / "personalizer.json").write_text(json.dumps(manifest))
    with pytest.raises(PackError, match=message):
        ConceptPack.from_pretrained(copy)


def test_garbage_manifest(copy):
    (copy / "personalizer.json").write_text("{")
    with pytest.raises(PackError, match="is damaged"):
        ConceptPack.from_pretrained(copy)


def test_saving_never_destroys_other_things(folder, tmp_path):
    pack = ConceptPack.from_pretrained(folder)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="is a file"):
        pack.save_pretrained(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("x")
    with pytest.raises(OutputError, match="holds other files"):
        pack.save_pretrained(tmp_path / "full")
    pack.save_pretrained(tmp_path / "pack")
    pack.save_pretrained(tmp_path / "pack")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "full", "pack"}


def test_a_full_disk_leaves_no_half_pack(folder, tmp_path, monkeypatch):
    import errno
    from pathlib import Path

    pack = ConceptPack.from_pretrained(folder)
    write = Path.write_bytes

    def full(self, data):
        if self.name == "new2.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        pack.save_pretrained(tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "any").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["any", "ours"]
