"""What people have to say about their models, and what is found out by itself: variants, layers that are left out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import ConceptPack, FitConfig, Personalizer
from sdk.combine import merge, route
from sdk.commands.main import main
from sdk.errors import InputError
from sdk.images.record import read_record, record_of
from tests.families import tiny

QUICK = {"steps": 2, "batch_size": 2, "target_pool": 1, "prior": "none", "learning_rate": 1e-3, "checkpoint_every": 0}
DRAWN = {"num_inference_steps": 2, "seed": 3}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_layers_of_the_encoders_can_be_left_out(loaded, picture, tmp_path, name):
    base = loaded(name)
    if base.family.clip_layers(base.text_parts[0].encoder) < 2:
        with pytest.raises(InputError, match="clip_skip leaves out layers"):
            base.generate("a cat", clip_skip=1, **DRAWN)
        return
    plain, skipped = (base.generate("a cat", clip_skip=skip, **DRAWN).images[0] for skip in (0, 1))
    assert plain.tobytes() != skipped.tobytes()
    assert plain.tobytes() == base.generate("a cat", **DRAWN).images[0].tobytes()
    pack = base.fit(picture, ["cat", "dog"], config=FitConfig(**QUICK, clip_skip=1))
    base.unload_pack()
    read = ConceptPack.from_pretrained(pack.save_pretrained(tmp_path / "pack"))
    assert read.clip_skip == 1
    own, same, other = (
        base.generate("a <new1> cat", concepts=read, clip_skip=skip, **DRAWN).images[0].tobytes()
        for skip in (None, 1, 0)
    )
    assert own == same != other
    how = {"concepts": read, "guidance_rescale": 0.5, **DRAWN}
    records = [record_of(base.generate("a <new1> cat", clip_skip=skip, **how).images[0]) for skip in (None, 0)]
    assert [(each.clip_skip, each.guidance_rescale) for each in records] == [(1, 0.5), (0, 0.5)]
    assert merge(base, [pack, pack]).clip_skip == route([pack, pack]).clip_skip == 1
    unskipped = base.fit(picture, ["dog"], config=FitConfig(**QUICK))
    base.unload_pack()
    with pytest.raises(InputError, match="clip_skip"):
        merge(base, [pack, unskipped])
    with pytest.raises(InputError, match="0 to"):
        base.generate("a cat", clip_skip=9, **DRAWN)
    with pytest.raises(InputError, match="clip_skip"):
        read.export_adapter(tmp_path / "x.onnx_adapter")


def test_skipped_states_are_those_before_the_last_layers(model_folder):
    """And the final norm is applied all the same, as A1111 and diffusers do."""
    base = Personalizer.from_pretrained(model_folder("sd1"), device="cpu")
    conditioner = base.conditioner(clip_skip=1)
    with torch.no_grad():
        ours = conditioner.encode(["a cat"]).states
        encoder = base.pipe.text_encoder
        found = encoder(conditioner.tokenize(["a cat"]), output_hidden_states=True).hidden_states
        wanted = getattr(encoder, "text_model", encoder).final_layer_norm(found[-2])
    assert torch.equal(ours, wanted)


def test_the_only_variant_is_found_by_itself(loaded, tmp_path):
    folder = tiny.write("sd1", tmp_path / "model", variant="fp16")
    assert not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    base = Personalizer.from_pretrained(folder, device="cpu")
    drawn = [each.generate("a cat", **DRAWN).images[0] for each in (base, loaded("sd1"))]
    assert drawn[0].tobytes() == drawn[1].tobytes()


def test_models_are_named_on_the_command_line(model_folder, picture, tmp_path, capsys):
    from safetensors.torch import save_file

    from tests.families.single import checkpoint

    picture.save(tmp_path / "photo.png")
    (tmp_path / "quick.toml").write_text('steps = 1\nbatch_size = 1\ntarget_pool = 1\nprior = "none"\n')
    fit = [
        "fit",
        str(tmp_path / "photo.png"),
        "--concept",
        "cat",
        "--config",
        str(tmp_path / "quick.toml"),
        "--offline",
    ]
    shutil.copytree(model_folder("sd1"), tmp_path / "model")
    for name in ("unet", "vae"):
        file = tmp_path / "model" / name / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.ema.safetensors"))
    given = ["--model", str(tmp_path / "model"), "--variant", "ema", "--output", str(tmp_path / "first")]
    assert main([*fit, *given]) == 0
    save_file(
        checkpoint(Personalizer.from_pretrained(model_folder("sd1"), device="cpu").pipe), tmp_path / "m.safetensors"
    )
    given = ["--model", str(tmp_path / "m.safetensors"), "--config-from", str(model_folder("sd1"))]
    assert main([*fit, *given, "--output", str(tmp_path / "second")]) == 0
    packs = [ConceptPack.from_pretrained(tmp_path / each) for each in ("first", "second")]
    assert packs[0].content_hash() == packs[1].content_hash()
    capsys.readouterr()
    drawn = ["generate", str(tmp_path / "second"), "--prompt", "a <new1> cat", "--num-images", "1", "--steps", "1"]
    assert main([*drawn, *given, "--output", str(tmp_path / "pictures")]) == 0
    assert np.asarray(Image.open(tmp_path / "pictures" / "00-00.png")).shape == (64, 64, 3)
    how = ["--height", "64", "--width", "96", "--clip-skip", "1", "--guidance-rescale", "0.5", "--memory", "2"]
    how += ["--scheduler", "unipc"]
    assert main([*drawn, *given, *how, "--output", str(tmp_path / "wide")]) == 0
    record = read_record(tmp_path / "wide" / "00-00.png")
    assert (record.clip_skip, record.guidance_rescale, record.scheduler) == (1, 0.5, "UniPCMultistepScheduler")
    assert np.asarray(Image.open(tmp_path / "wide" / "00-00.png")).shape == (64, 96, 3)
    capsys.readouterr()
    assert main([*drawn, *given, "--memory", "little", "--output", str(tmp_path / "no")]) == 2
    assert "--memory is a number of GB, such as 8, got 'little'" in capsys.readouterr().err


def test_offline_asks_nobody(monkeypatch, tmp_path, capsys):
    import socket

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def lookup(*arguments, **keywords):
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    from sdk.miniworld.references import demo_picture

    demo_picture().save(tmp_path / "photo.png")
    fit = ["fit", str(tmp_path / "photo.png"), "--concept", "cat", "--output", str(tmp_path / "x")]
    assert main([*fit, "--model", "someone/model", "--offline"]) == 2
    assert "is not on this machine" in capsys.readouterr().err
    assert asked == []
