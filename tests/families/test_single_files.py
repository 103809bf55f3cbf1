"""Base models in one file: the same numbers as the folder, without any network, and one line for other files."""

from __future__ import annotations

import gzip
import json
import socket
import sys

import pytest
import torch
from safetensors.torch import save_file

from sdk import Personalizer
from sdk.errors import BaseModelError
from sdk.families import clip_vocabulary, configurations, load_family
from sdk.families.single_files import configuration_of
from tests.families.single import checkpoint


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError(f"asked for {arguments[0]}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "inpainting"])
def test_a_file_is_its_folder(model_folder, loaded, tmp_path, name, suffix):
    """With the folder's configuration; every weight, and the picture."""
    weights = checkpoint(loaded(name).pipe)
    file = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": weights, "global_step": 1000}, file)
    else:
        save_file(weights, file)
    base = Personalizer.from_pretrained(file, device="cpu", config=str(model_folder(name)))
    assert base.family.name == loaded(name).family.name
    for part in ("unet", "vae", *(each.name for each in base.text_parts)):
        ours, theirs = getattr(base.pipe, part).state_dict(), getattr(loaded(name).pipe, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    drawn = [each.generate("a cat", num_inference_steps=2, seed=1).images[0] for each in (base, loaded(name))]
    assert drawn[0].tobytes() == drawn[1].tobytes()


def older(weights):
    """With a text encoder's names as programs of before 2023 wrote them."""
    return {name.replace(".transformer.text_model.", ".transformer."): weight for name, weight in weights.items()}


def with_averages(weights):
    """With averages of the UNet's weights, which other programs leave alone, beside the weights."""
    own = {name: weight for name, weight in weights.items() if name.startswith("model.diffusion_model.")}
    return weights | {f"model_ema.{name.removeprefix('model.').replace('.', '')}": w + 1 for name, w in own.items()}


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize(("name", "change"), [("sd1", older), ("sdxl", older), ("sd1", with_averages)])
def test_other_names_for_the_same_weights(model_folder, loaded, tmp_path, name, change, suffix):
    weights = change(checkpoint(loaded(name).pipe))
    file = tmp_path / f"model.{suffix}"
    torch.save({"state_dict": weights}, file) if suffix == "ckpt" else save_file(weights, file)
    base = Personalizer.from_pretrained(file, device="cpu", config=str(model_folder(name)))
    for part in ("unet", *(each.name for each in base.text_parts)):
        ours, theirs = getattr(base.pipe, part).state_dict(), getattr(loaded(name).pipe, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), part


# Names and shapes of the true files, as far as they tell one from another.
FIRST, WORDS = "model.diffusion_model.input_blocks.0.0.weight", "transformer_blocks.0.attn2.to_k.weight"
SHAPES = {
    "sd1": {
        FIRST: (320, 4, 3, 3),
        f"model.diffusion_model.input_blocks.1.1.{WORDS}": (320, 768),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    },
    "sd2": {
        FIRST: (320, 4, 3, 3),
        f"model.diffusion_model.input_blocks.1.1.{WORDS}": (320, 1024),
        "cond_stage_model.model.positional_embedding": (77, 1024),
    },
    "sdxl": {
        FIRST: (320, 4, 3, 3),
        f"model.diffusion_model.input_blocks.4.1.{WORDS}": (640, 2048),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
        "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_is_recognised_by_its_names(name):
    family, parts = configuration_of(SHAPES[name], "model")
    assert family == name
    assert parts["unet"]["in_channels"] == 4
    _, painting = configuration_of(SHAPES[name] | {FIRST: (320, 9, 3, 3)}, "model")
    assert painting["unet"]["in_channels"] == 9


def test_what_a_file_of_2x_predicts():
    shapes = SHAPES["sd2"]
    assert configuration_of(shapes, "m")[1]["scheduler"]["prediction_type"] == "v_prediction"
    assert configuration_of(shapes, "m", step=875_000)[1]["scheduler"]["prediction_type"] == "epsilon"
    assert configuration_of(shapes, "m", prediction="epsilon")[1]["unet"]["sample_size"] == 64


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model.diffusion_model.joint_blocks.0.x.weight", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.weight", "Flux"),
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA, no model"),
        ("unet.down_blocks.0.to_k.lora_A.weight", "a LoRA, no model"),
        ("control_model.time_embed.0.weight", "a ControlNet"),
        ("first_stage_model.encoder.conv_in.weight", "an autoencoder alone"),
        ("emb_params", "a textual inversion"),
        ("x", "no checkpoint of a model that draws"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, key, said):
    save_file({key: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match="supported are") as refused:
        Personalizer.from_pretrained(tmp_path / "model.safetensors", device="cpu")
    assert said in str(refused.value)


def test_an_old_text_encoder_that_is_not_whole(model_folder, loaded, tmp_path):
    weights = older(checkpoint(loaded("sd1").pipe))
    name = next(each for each in weights if "layers.1.mlp" in each)
    for change in (lambda: weights.pop(name), lambda: weights.update({name: torch.zeros(3)})):
        change()
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(BaseModelError, match="'model.safetensors' is damaged .*layers.1.mlp"):
            Personalizer.from_pretrained(tmp_path / "model.safetensors", device="cpu", config=str(model_folder("sd1")))


def test_a_latent_consistency_model_in_a_file(model_folder, loaded, tmp_path):
    """Its condition would be left out; that is said, whatever configuration is given."""
    save_file(checkpoint(loaded("lcm").pipe), tmp_path / "model.safetensors")
    for options in ({}, {"config": str(model_folder("lcm"))}):
        with pytest.raises(BaseModelError, match="is a latent consistency model, of which folders alone are read"):
            Personalizer.from_pretrained(tmp_path / "model.safetensors", device="cpu", **options)


def test_parts_of_models(tmp_path):
    unet = {key: torch.zeros(shape) for key, shape in SHAPES["sd1"].items() if "diffusion" in key}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(BaseModelError, match="without its text encoder"):
        Personalizer.from_pretrained(tmp_path / "unet.safetensors", device="cpu")
    save_file(unet | {"conditioner.embedders.0.model.x": torch.zeros(1)}, tmp_path / "refiner.safetensors")
    with pytest.raises(BaseModelError, match="a refiner of pictures"):
        Personalizer.from_pretrained(tmp_path / "refiner.safetensors", device="cpu")


@pytest.mark.parametrize("content", [b"", b"some text", b"\x80\x02cos\nsystem\n", b"\x00" * 100])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_files_that_are_none(tmp_path, content, suffix):
    (tmp_path / f"model.{suffix}").write_bytes(content)
    with pytest.raises(BaseModelError, match="no checkpoint, or damaged"):
        Personalizer.from_pretrained(tmp_path / f"model.{suffix}", device="cpu")


# The vocabulary


@pytest.fixture
def open_clip(tmp_path, monkeypatch):
    """A wheel with as many merges as the true one, made up."""
    place = tmp_path / "site" / "open_clip"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    pieces = clip_vocabulary._characters_of_bytes()
    merges = [f"{first} {second}" for first in pieces for second in pieces][:49152]
    with gzip.open(place / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges]) + "\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)


def test_the_vocabulary_is_read_without_importing_what_carries_it(open_clip, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    clip_vocabulary.write_vocabulary(folder)
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert len(words) == 49408
    assert (words["!"], words["!</w>"]) == (0, 256)
    assert (words["<|startoftext|>"], words["<|endoftext|>"]) == (49406, 49407)
    assert len((folder / "merges.txt").read_text(encoding="utf-8").splitlines()) == 48895


def test_without_a_vocabulary_one_line_says_where_one_is(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_vocabulary, "find_spec", lambda name: None)
    monkeypatch.setattr(clip_vocabulary, "try_to_load_from_cache", lambda *arguments: None)
    save_file({key: torch.zeros(shape) for key, shape in SHAPES["sd1"].items()}, tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match=r"personalizer-sdk\[clip\].*download.*--config-from"):
        Personalizer.from_pretrained(tmp_path / "model.safetensors", device="cpu")


def test_a_vocabulary_that_was_downloaded_before(tmp_path, monkeypatch):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(clip_vocabulary, "find_spec", lambda name: None)
    monkeypatch.setattr(
        clip_vocabulary, "try_to_load_from_cache", lambda name, file: str(tmp_path / file.split("/")[-1])
    )
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    clip_vocabulary.write_vocabulary(folder)
    assert (folder / "merges.txt").read_text() == "merges.txt"


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [("SD1", 859_520_964), ("SD2", 865_910_724), ("SD2_BASE", 865_910_724), ("SDXL", 2_567_463_684)],
)
def test_written_configurations_are_those_of_the_published_models(parts, numbers):
    """The UNets have as many weights as the published ones, and all parts are known to the libraries."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    written = getattr(configurations, parts)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(written["unet"])
        vae = AutoencoderKL.from_config(written["vae"])
    assert sum(p.numel() for p in unet.parameters()) == numbers
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_a_written_folder_is_read_by_the_libraries(open_clip, tmp_path):
    from diffusers import DiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTokenizer

    from sdk.model.single_file import write_configuration

    (tmp_path / "model").mkdir()
    write_configuration(tmp_path / "model", load_family("sdxl"), configurations.SDXL)
    index = DiffusionPipeline.load_config(tmp_path / "model")
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
    assert CLIPTextConfig.from_pretrained(tmp_path / "model" / "text_encoder_2").hidden_size == 1280
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "model" / "tokenizer_2")
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length) == (49408, 0, 77)
