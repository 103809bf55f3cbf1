"""``personalizer export`` and ``verify``: every format, and one line for what cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from sdk import Concept, ConceptPack, Personalizer
from sdk.commands.main import main
from sdk.families.layers import cross_attention_layers


@pytest.fixture(scope="module")
def pack_folder(tiny_model, tmp_path_factory):
    """A pack on disk, in a folder whose name no prompt could hold."""
    personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
    key_value = {
        name: tuple((w.weight.detach() * 1.1).half() for w in (layer.to_k, layer.to_v))
        for name, layer in cross_attention_layers(personalizer.pipe.unet).items()
    }
    concepts = [Concept("cat", "<new1>"), Concept("dog", "<new2>")]
    pack = ConceptPack(concepts, personalizer.base, key_value, torch.zeros(2, 32).half())
    return pack.save_pretrained(tmp_path_factory.mktemp("packs") / "my pets")


def export(tiny_model, pack_folder, output, *arguments):
    command = ["export", str(pack_folder), "--output", str(output), "--model", str(tiny_model), *arguments]
    assert main(command) == 0


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["--format", "lora"], {"pytorch_lora_weights.safetensors", "new1.safetensors", "new2.safetensors"}),
        (["--format", "lora", "--dialect", "kohya", "--rank", "2"], {"pytorch_lora_weights.safetensors"}),
        (
            ["--format", "diffusers", "--pickle"],
            {
                "pytorch_custom_diffusion_weights.safetensors",
                "pytorch_custom_diffusion_weights.bin",
                "new1.safetensors",
            },
        ),
        (["--format", "webui"], {"my-pets.safetensors", "my-pets-new1.safetensors", "my-pets-new2.safetensors"}),
        (["--format", "onnx", "--adapter-only"], {"my-pets.onnx_adapter"}),
    ],
)
def test_every_format_writes_its_files(tiny_model, pack_folder, tmp_path, capsys, arguments, files):
    export(tiny_model, pack_folder, tmp_path / "out", *arguments)
    assert files <= {path.name for path in (tmp_path / "out").iterdir()}
    printed = capsys.readouterr().out
    assert all(name in printed for name in files)


def test_a_shared_folder_in_half_and_verify(tiny_model, pack_folder, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    export(tiny_model, pack_folder, tmp_path / "both", "--format", "onnx", "--shared", "--half")
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "both" / "base")]) == 0
    assert "shared, float16" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "both" / "my-pets.onnx_adapter")]) == 0
    assert "<new1> cat, <new2> dog" in capsys.readouterr().out


def test_verify_says_what_to_type(tiny_model, pack_folder, capsys):
    assert main(["verify", str(pack_folder), "--model", str(tiny_model)]) == 0
    printed = capsys.readouterr().out
    assert "photo of a my-pets-new1 cat and a my-pets-new2 dog <lora:my-pets:1>" in printed
    assert "embedding:my-pets-new1" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "lora", "--rank", "0"], "rank"),
        (["--format", "webui", "--name", "my pets"], "letters, digits"),
    ],
)
def test_what_cannot_be_is_one_line(tiny_model, pack_folder, tmp_path, capsys, arguments, message):
    command = ["export", str(pack_folder), "--output", str(tmp_path / "out"), "--model", str(tiny_model)]
    assert main([*command, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error


def test_an_edited_pack_is_not_exported(tiny_model, pack_folder, tmp_path, capsys):
    copy = shutil.copytree(pack_folder, tmp_path / "copy")
    manifest = json.loads((copy / "personalizer.json").read_text())
    file = copy / next(name for name in manifest["files"] if "weights" in name)
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    assert main(["export", str(copy), "--output", str(tmp_path / "out"), "--format", "lora"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_packs_that_are_routed_are_not_exported(tiny_model, pack_folder, tmp_path):
    from sdk.combine.routing import route
    from sdk.errors import InputError
    from sdk.exports import diffusers_layout, lora, webui
    from sdk.exports.diffusers_layout import load_into

    pack = ConceptPack.from_pretrained(pack_folder)
    both = route([pack, pack])
    personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
    for write in (
        lambda: personalizer.export_onnx(tmp_path / "onnx", concepts=both),
        lambda: both.export_adapter(tmp_path / "both.onnx_adapter"),
        lambda: diffusers_layout.export(both, personalizer, tmp_path / "d"),
        lambda: load_into(personalizer.pipe, both),
        lambda: lora.export(both, personalizer, tmp_path / "l"),
        lambda: webui.export(both, personalizer, tmp_path / "w"),
    ):
        with pytest.raises(InputError, match="merge them"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_levels_that_the_runtimes_do_not_know_are_not_exported(tiny_model, tmp_path):
    from sdk.errors import InputError

    personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
    personalizer.pipe.scheduler.register_to_config(beta_schedule="squaredcos_cap_v2")
    with pytest.raises(InputError, match="beta_schedule is .linear. or .scaled_linear.; this model.s has .squaredcos"):
        personalizer.export_onnx(tmp_path / "onnx")


def test_an_adapter_where_a_file_is(tiny_model, pack_folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    command = ["export", str(pack_folder), "--output", str(tmp_path / "taken"), "--model", str(tiny_model)]
    assert main([*command, "--format", "onnx", "--adapter-only"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_missing_package_is_named():
    # In a process of its own: modules taken from sys.modules here would be other ones for the tests that follow.
    code = "import sys; sys.modules['onnxruntime'] = None; from sdk.commands.main import main; "
    code += "sys.exit(main(['verify', 'some.onnx_adapter']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "personalizer-sdk[deploy]" in done.stderr
