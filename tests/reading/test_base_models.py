"""What a file says of its base model: checked, and never fetched; and what a model's own folder recommends."""

from __future__ import annotations

import json
import random

import pytest
import torch

from sdk import Personalizer
from sdk.commands.main import main
from sdk.errors import BaseModelError, NotFiniteError
from sdk.model.fingerprint import BaseIdentity
from sdk.model.loading import BUNDLED_FOLDER, load_pipeline, recommended_settings, stated_is_local
from sdk.pack import MANIFEST
from tests.reading.mutations import changed_table, read_or_refused


def state_base(folder, name):
    """Let a pack say that it belongs to another base model."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["base_model"]["name"] = name
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def folder(pack, tmp_path):
    return pack.save_pretrained(tmp_path / "my pack")


@pytest.fixture
def asked(monkeypatch):
    """What was asked of diffusers, which would ask the network."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    calls = []

    def refuse(where, **options):
        calls.append((where, options.get("local_files_only", False)))
        raise OSError("not in the cache")

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", refuse)
    monkeypatch.setattr(DiffusionPipeline, "load_config", refuse)
    return calls


def test_identities_out_of_files(shared_personalizer):
    rng = random.Random(0)
    plain = shared_personalizer.base.to_dict()
    assert BaseIdentity.from_dict(plain) == shared_personalizer.base
    refused = 0
    for _ in range(200):
        found = read_or_refused(lambda: BaseIdentity.from_dict(changed_table(plain, rng)))
        assert found is None or found.difference(found) is None
        refused += found is None
    assert refused > 100


def test_only_what_the_user_named_is_fetched(asked):
    with pytest.raises(BaseModelError, match=r"nothing is fetched .* name it with --model"):
        load_pipeline("someone/model", dtype=torch.float32, stated_by_file=True)
    assert asked == []
    with pytest.raises(BaseModelError, match="cannot load"):
        load_pipeline("someone/model", dtype=torch.float32)
    assert asked == [("someone/model", False)]


def test_what_was_downloaded_before_is_used(asked, tiny_model, monkeypatch):
    """Found by its folder: the Hub's own client may connect before it looks."""
    from sdk.model import loading

    found = str(tiny_model / "model_index.json")
    monkeypatch.setattr(
        loading, "try_to_load_from_cache", lambda name, file: found if name == "someone/model" else None
    )
    with pytest.raises(BaseModelError, match="not in the cache"):  # of the stand-in for diffusers
        load_pipeline("someone/model", dtype=torch.float32, stated_by_file=True)
    assert asked == [(str(tiny_model), False)]


def test_a_file_that_a_pack_states_as_its_base_asks_nobody(tmp_path, monkeypatch):
    """Such as a file of the pack itself."""
    import socket

    from safetensors.torch import save_file

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    save_file({"x": torch.zeros(1)}, tmp_path / "own.safetensors")
    asked = []

    def lookup(*arguments, **keywords):
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(BaseModelError, match="no checkpoint of a model that draws"):
        load_pipeline(str(tmp_path / "own.safetensors"), dtype=torch.float32, stated_by_file=True)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["//server/share", "\\\\server\\share", "https://example.org/x", "../none", "a/b/c", "~/x"]
)
def test_other_names_of_files_are_not_even_looked_for(asked, name):
    assert not stated_is_local(name)
    with pytest.raises(BaseModelError, match="is not on this machine"):
        load_pipeline(name, dtype=torch.float32, stated_by_file=True)
    assert asked == []


def test_verify_says_that_the_base_was_not_checked(folder, asked, capsys):
    state_base(folder, "someone/model")
    assert main(["verify", str(folder)]) == 0
    assert "not checked; give --model" in capsys.readouterr().out
    assert asked == []
    assert main(["export", str(folder), "--format", "onnx", "--output", str(folder.parent / "out")]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert asked == []


def test_verify_of_a_pack_that_is_not_finite(pack, folder, capsys):
    import hashlib

    from safetensors.torch import load, save

    from sdk.pack import WEIGHTS

    tensors = load((folder / WEIGHTS).read_bytes())
    next(iter(tensors.values()))[0, 0] = float("nan")
    (folder / WEIGHTS).write_bytes(save(tensors))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][WEIGHTS] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert main(["verify", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "no numbers" in captured.err
    assert captured.out == ""


def test_lines_to_type_are_quoted_for_a_shell(folder, tiny_model, capsys):
    import shlex

    assert main(["verify", str(folder), "--model", str(tiny_model)]) == 0
    printed = capsys.readouterr().out
    assert f"personalizer export {shlex.quote(str(folder))} --format onnx --output DIR" in printed


def test_a_merge_says_what_to_type(pack, tiny_model, tmp_path, capsys):
    import shlex
    from dataclasses import replace

    folders = [replace(pack, unet={}).save_pretrained(tmp_path / name) for name in ("one", "two")]
    output = tmp_path / "it's both"
    assert main(["merge", *map(str, folders), "--output", str(output), "--model", str(tiny_model)]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert shlex.split(line.removeprefix("try: "))[:3] == ["personalizer", "generate", str(output)]
    assert "<new4> dog" in shlex.split(line.removeprefix("try: "))[4]


def test_no_control_character_of_a_path_is_printed(pack, tiny_model, tmp_path, capsys):
    folder = pack.save_pretrained(tmp_path / "a\x1b[31mb")
    assert main(["verify", str(folder), "--model", str(tiny_model)]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[31m" in printed
    assert "\x1b" not in printed


def test_a_base_model_that_is_not_finite(tiny_model):
    pipe = load_pipeline(tiny_model, dtype=torch.float32)
    name, layer = next((n, m) for n, m in pipe.unet.named_modules() if n.endswith("attn2"))
    with torch.no_grad():
        layer.to_k.weight[0, 0] = float("inf")
    with pytest.raises(NotFiniteError, match=name):
        Personalizer(pipe, "broken")


def test_recommendations(tmp_path):
    rng = random.Random(1)
    plain = json.loads((BUNDLED_FOLDER / "defaults.json").read_text())
    assert recommended_settings("bundled") == plain
    assert recommended_settings(tmp_path) == {}
    for _ in range(100):
        (tmp_path / "defaults.json").write_text(json.dumps(changed_table(plain, rng)))
        found = read_or_refused(lambda: recommended_settings(tmp_path))
        assert found is None or 0 <= float(found.get("generate", {}).get("guidance_scale", 6.0)) <= 1000
    for text in (
        "[]",
        '{"generate": 5}',
        '{"generate": {"guidance_scale": NaN}}',
        '{"fit": []}',
        '{"methods": {"a": 1}}',
    ):
        (tmp_path / "defaults.json").write_text(text)
        with pytest.raises(BaseModelError, match="correct or remove it"):
            recommended_settings(tmp_path)


def test_a_folder_that_is_no_model(tmp_path, tiny_model):
    import shutil

    for part, content in (("unet/config.json", "[]"), ("model_index.json", "{}"), ("vae/config.json", "{" * 10_000)):
        copy = shutil.copytree(tiny_model, tmp_path / part.replace("/", "-"))
        (copy / part).write_text(content)
        with pytest.raises(BaseModelError, match="the base model"):
            load_pipeline(copy, dtype=torch.float32)
