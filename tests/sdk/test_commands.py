"""The command line: what works, and one line with exit code 2 for what cannot."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from sdk.commands.main import build_parser, main

SETTINGS = """
steps = 2
batch_size = 2
target_pool = 2
prior_count = 2
prior_steps = 1
"""


@pytest.fixture(scope="module")
def workshop(tiny_model, picture, tmp_path_factory):
    """A folder with a picture, settings and a fitted pack."""
    folder = tmp_path_factory.mktemp("workshop")
    picture.save(folder / "photo.png")
    (folder / "quick.toml").write_text(SETTINGS)
    status = main(
        [
            "fit",
            str(folder / "photo.png"),
            "--concept",
            "cat",
            "--concept",
            "dog",
            "--output",
            str(folder / "pack"),
            "--model",
            str(tiny_model),
            "--config",
            str(folder / "quick.toml"),
            "--seed",
            "1",
        ]
    )
    assert status == 0
    return folder


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail; return its one line on standard error."""
    capsys.readouterr()
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    return lines[0]


def fit_arguments(workshop, tiny_model, tmp_path, image="photo.png", concepts=("cat",), **extra):
    arguments = ["fit", str(workshop / image), "--output", str(extra.pop("output", tmp_path / "pack"))]
    arguments += ["--model", str(tiny_model), "--config", str(workshop / "quick.toml")]
    for concept in concepts:
        arguments += ["--concept", concept]
    for name, value in extra.items():
        arguments += ["--" + name.replace("_", "-"), str(value)]
    return arguments


def test_fit_generate_verify(workshop, capsys, tmp_path):
    capsys.readouterr()
    assert (
        main(
            [
                "generate",
                str(workshop / "pack"),
                "--prompt",
                "a <new1> cat",
                "--output",
                str(tmp_path / "out"),
                "--num-images",
                "2",
                "--steps",
                "2",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out.split()
    assert [Image.open(p).size for p in out] == [(32, 32)] * 2
    assert main(["verify", str(workshop / "pack")]) == 0
    assert "base model: matches" in capsys.readouterr().out


def test_results_go_to_standard_output_progress_to_standard_error(workshop, tiny_model, tmp_path, capsys):
    assert main(fit_arguments(workshop, tiny_model, tmp_path)) == 0
    captured = capsys.readouterr()
    assert "content sha256" in captured.out
    assert "fit:" in captured.err
    assert "fit:" not in captured.out


def test_the_same_class_twice_works(workshop, tiny_model, tmp_path):
    assert main(fit_arguments(workshop, tiny_model, tmp_path, concepts=("cat", "cat"))) == 0
    manifest = json.loads((tmp_path / "pack/personalizer.json").read_text())
    assert [c["token"] for c in manifest["concepts"]] == ["<new1>", "<new2>"]


def test_a_prompt_without_tokens_works_with_a_note(workshop, tmp_path, capsys, caplog):
    assert (
        main(
            [
                "generate",
                str(workshop / "pack"),
                "--prompt",
                "a cat",
                "--output",
                str(tmp_path),
                "--num-images",
                "1",
                "--steps",
                "1",
            ]
        )
        == 0
    )
    assert "names no learned token" in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cmyk", "16bit", "alpha", "exif"])
def test_unusual_pictures_work(workshop, tiny_model, tmp_path, kind):
    import numpy as np

    image = Image.open(workshop / "photo.png")
    if kind == "cmyk":
        image.convert("CMYK").save(tmp_path / "a.jpg")
    elif kind == "16bit":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(tmp_path / "a.png")
    elif kind == "alpha":
        image.convert("RGBA").save(tmp_path / "a.png")
    else:
        exif = Image.Exif()
        exif[0x0112] = 8
        image.save(tmp_path / "a.jpg", exif=exif)
    path = next(tmp_path.glob("a.*"))
    arguments = fit_arguments(workshop, tiny_model, tmp_path)
    arguments[1] = str(path)
    assert main(arguments) == 0


def test_unusable_pictures(workshop, tiny_model, tmp_path, capsys):
    (workshop / "text.jpg").write_text("hello")
    Image.new("RGB", (1, 1)).save(workshop / "dot.png")
    assert "no file" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, image="none.jpg"))
    assert "cannot be read" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, image="text.jpg"))
    assert "only 1x1" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, image="dot.png"))


def test_unusable_concepts(workshop, tiny_model, tmp_path, capsys):
    assert "--concept" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, concepts=()))
    assert "too many" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, concepts=["cat"] * 20))
    assert "empty class" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, concepts=["cat", ""]))


def test_unusable_options(workshop, tiny_model, tmp_path, capsys):
    def line(**extra):
        return refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, **extra))

    assert "steps must be greater than 0" in line(steps=0)
    assert "no method" in line(method="magic")
    assert "invalid choice" in line(preset="magic")
    assert "no model" in line(model="./nowhere")
    assert "no folder" in line(class_images=str(tmp_path / "none"))
    assert "no file" in line(config=str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("steps = ")
    assert "not valid TOML" in line(config=str(tmp_path / "bad.toml"))
    (tmp_path / "name.toml").write_text("method = 'attencraft'")
    assert "no setting 'method'" in line(config=str(tmp_path / "name.toml"))
    (tmp_path / "unknown.toml").write_text("stepps = 3")
    assert "no setting 'stepps'" in line(config=str(tmp_path / "unknown.toml"))
    (tmp_path / "option.toml").write_text('preset = "paper"')
    assert "no setting 'preset'" in line(config=str(tmp_path / "option.toml"))
    assert "device" in line(device="toaster")


def test_output_that_is_a_file_or_taken(workshop, tiny_model, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert "is a file" in refused(capsys, *fit_arguments(workshop, tiny_model, tmp_path, output=tmp_path / "file"))
    assert "already holds a pack" in refused(
        capsys, *fit_arguments(workshop, tiny_model, tmp_path, output=workshop / "pack")
    )
    generate = ["generate", str(workshop / "pack"), "--prompt", "a <new1> cat", "--output", str(tmp_path / "file")]
    assert "is a file" in refused(capsys, *generate)
    assert (tmp_path / "file").read_text() == "precious"


def test_unusable_packs(workshop, tmp_path, capsys, personalizer):
    damaged = shutil.copytree(workshop / "pack", tmp_path / "damaged")
    data = bytearray((damaged / "new1.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "new1.safetensors").write_bytes(data)
    for command in (
        ["verify", str(damaged)],
        ["generate", str(damaged), "--prompt", "a <new1> cat", "--output", str(tmp_path / "o")],
    ):
        assert "is damaged" in refused(capsys, *command)
    assert "no pack at" in refused(capsys, "verify", str(tmp_path / "none"))


def test_a_pack_of_another_base(workshop, tmp_path, capsys, tiny_model):
    import torch
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_model, tmp_path / "other")
    file = other / "unet/diffusion_pytorch_model.safetensors"
    torch.manual_seed(1)
    weights = {k: torch.randn_like(v) if "attn2.to_k" in k else v for k, v in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert "was made for the base model" in refused(capsys, "verify", str(workshop / "pack"), "--model", str(other))


def test_unknown_token_in_a_prompt(workshop, tmp_path, capsys):
    line = refused(
        capsys, "generate", str(workshop / "pack"), "--prompt", "a <new7> cat", "--output", str(tmp_path / "o")
    )
    assert "<new7>, which was not learned; this pack knows <new1>, <new2>" in line


def test_a_full_disk(workshop, tiny_model, tmp_path, capsys, monkeypatch):
    import errno

    from sdk.disk import files

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(fit_arguments(workshop, tiny_model, tmp_path)) == 2
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()


def test_help_shows_an_example_for_each_command(capsys):
    for command in ("fit", "generate", "evaluate", "verify", "doctor"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert f"example:\n  personalizer {command}" in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "augmented_v: ready" in out
    assert "in use for recorded layers: " in out
    assert "device: " in out


def test_no_command(capsys):
    assert "COMMAND" in refused(capsys)


def test_masks_are_written_and_go_back_into_a_fit(workshop, tiny_model, tmp_path, capsys):
    photo = str(workshop / "photo.png")
    named = ["--concept", "cat", "--concept", "dog"]
    assert main(["masks", photo, *named, "--output", str(tmp_path / "m"), "--model", str(tiny_model)]) == 0
    out = capsys.readouterr().out
    files = [tmp_path / "m" / f"mask-new{i}.png" for i in (1, 2)]
    assert all(str(file) in out for file in files)
    for file in files:
        with Image.open(file) as mask:
            edited = Image.new("L", mask.size)
        edited.paste(255, (4, 4, 20, 20))
        edited.save(file)
    given = [part for file in files for part in ("--mask", str(file))]
    assert main([*fit_arguments(workshop, tiny_model, tmp_path, concepts=("cat", "dog")), *given]) == 0
    assert (tmp_path / "pack" / "masks.png").is_file()


def test_packs_are_merged(workshop, tiny_model, tmp_path, capsys):
    pack = str(workshop / "pack")
    arguments = ["merge", pack, pack, "--output", str(tmp_path / "both")]
    assert main(arguments) == 0
    assert "<new3> cat" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "both")]) == 0
    assert "at least two" in refused(capsys, "merge", pack, "--output", str(tmp_path / "one"))


def test_compare_writes_a_page(workshop, tiny_model, tmp_path, capsys):
    arguments = ["compare", str(workshop / "photo.png"), "--concept", "cat", "--concept", "dog", "--steps", "1"]
    arguments += ["--methods", "textual_inversion", "--prompts", "1", "--num-images", "1", "--model", str(tiny_model)]
    assert main([*arguments, "--output", str(tmp_path / "report")]) == 0
    out = capsys.readouterr().out
    assert "| textual_inversion |" in out
    assert (tmp_path / "report" / "report.html").is_file()
