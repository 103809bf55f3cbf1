"""Every kind of base model: loaded, fitted, resumed, drawn with, exported; true architectures at a small size."""

from __future__ import annotations

import json

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image

from sdk import ConceptPack, FitConfig, Personalizer
from sdk.combine import merge, route
from sdk.commands.main import main
from sdk.errors import BaseModelError, InputError
from sdk.exports import load_format
from sdk.families.layers import cross_attention_layers
from tests.families.tiny import MODELS

QUICK = {"steps": 3, "batch_size": 3, "target_pool": 2, "prior": "none", "learning_rate": 1e-3, "checkpoint_every": 1}
DRAWN = {"num_inference_steps": 2, "seed": 3}
PROMPT = "a <new1> cat and a <new2> dog"
# Every kind of UNet once; the others differ by their scheduler alone.
UNETS = ("sd1", "sd2", "sdxl", "inpainting", "lcm")
# And two schedulers that change how they are trained or sampled; the matrix of the slow tier has all of them.
KINDS = (*UNETS, "turbo", "zero-snr")
FAMILIES = {
    "sd1": "sd1",
    "sd2": "sd2",
    "sd2-base": "sd2",
    "sdxl": "sdxl",
    "inpainting": "sd1",
    "turbo": "sd2",
    "sdxl-turbo": "sdxl",
    "lcm": "sd1",
    "zero-snr": "sd2",
}


@pytest.fixture(scope="module")
def fitted(loaded, tmp_path_factory):
    """Return a function from a model's name to a pack that was fitted on it, and where it was written."""
    found = {}

    def fit(name):
        if name not in found:
            from sdk.miniworld.references import demo_picture

            folder = tmp_path_factory.mktemp("packs") / name
            config = FitConfig(**QUICK)
            pack = loaded(name).fit(demo_picture(), ["cat", "dog"], config=config, seed=3, output_dir=folder)
            loaded(name).unload_pack()
            found[name] = (pack, folder)
        return found[name]

    return fit


def levels_apart(first, second):
    return int(np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int)).max())


def test_every_model_is_tried():
    assert set(FAMILIES) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_recognised(loaded, name):
    assert loaded(name).family.name == FAMILIES[name]
    assert loaded(name).base.family == FAMILIES[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_pack_goes_round_and_draws(loaded, fitted, name):
    """Fit, write, read, draw: other pictures than the plain model's, and the same from disk."""
    pack, folder = fitted(name)
    base = loaded(name)
    read = ConceptPack.from_pretrained(folder)
    assert read.content_hash() == pack.content_hash()
    drawn = base.generate(PROMPT, concepts=pack, **DRAWN).images[0]
    assert drawn.tobytes() == base.generate(PROMPT, concepts=read, **DRAWN).images[0].tobytes()
    plain = base.generate("a cat and a dog", **DRAWN).images[0]
    assert levels_apart(drawn, plain) > 0
    wide = base.generate("a <new1> cat", concepts=pack, height=64, width=96, **DRAWN).images[0]
    assert wide.size == (96, 64)
    again = base.generate(PROMPT, concepts=pack, **DRAWN).images[0]
    assert again.tobytes() == drawn.tobytes()


@pytest.mark.parametrize("name", UNETS)
def test_it_is_resumed_to_the_bit(loaded, fitted, picture, tmp_path, name):
    pack, _ = fitted(name)
    usual = {"config": FitConfig(**QUICK), "seed": 3, "output_dir": tmp_path / "pack"}

    def stop(report):
        if report.step == 2:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        loaded(name).fit(picture, ["cat", "dog"], callback=stop, **usual)
    again = loaded(name).fit(picture, ["cat", "dog"], resume=True, **usual)
    loaded(name).unload_pack()
    assert again.content_hash() == pack.content_hash()


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_changed_and_painted_over(loaded, fitted, picture, name):
    pack, _ = fitted(name)
    base = loaded(name)
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    painted = base.inpaint(picture, hole, "a <new1> cat", concepts=pack, **DRAWN).images[0]
    assert np.array_equal(np.asarray(painted)[:, 40:], np.asarray(picture)[:, 40:])
    assert not np.array_equal(np.asarray(painted)[:, :32], np.asarray(picture)[:, :32])
    assert base.img2img(picture, "a <new1> cat", concepts=pack, strength=0.5, **DRAWN).images[0].size == picture.size
    assert len(base.find_masks(picture, ["cat", "dog"])) == 2


@pytest.mark.parametrize("name", UNETS)
def test_packs_are_joined(loaded, fitted, picture, name):
    pack, _ = fitted(name)
    base = loaded(name)
    other = base.fit(picture, ["dog"], config=FitConfig(**{**QUICK, "steps": 2}), seed=5)
    base.unload_pack()
    merged = merge(base, [pack, other])
    assert merged.low_rank == pack.low_rank
    for joined in (merged, route([pack, other])):
        assert base.generate("a <new1> cat and a <new3> dog", concepts=joined, **DRAWN).images[0].size == (64, 64)


@pytest.mark.parametrize("name", UNETS)
def test_a_lora_stays_beside_it(model_folder, loaded, fitted, tmp_path, name):
    """The export of another pack, as a LoRA of somebody: it changes the picture, and goes without a trace."""
    pack, _ = fitted(name)
    load_format("lora").export(pack, loaded(name), tmp_path / "lora", error=0.0)
    base = Personalizer.from_pretrained(model_folder(name), device="cpu")
    before = base.generate(PROMPT, concepts=pack, **DRAWN).images[0]
    base.load_lora_weights(tmp_path / "lora")
    beside = base.generate(PROMPT, concepts=pack, **DRAWN).images[0]
    base.unload_lora_weights()
    assert base.generate(PROMPT, concepts=pack, **DRAWN).images[0].tobytes() == before.tobytes()
    assert beside.size == before.size


@pytest.mark.parametrize("name", UNETS)
def test_exports_for_other_tools(loaded, fitted, tmp_path, name):
    from safetensors.torch import load_file

    pack, _ = fitted(name)
    base = loaded(name)
    layers = cross_attention_layers(base.pipe.unet)
    for dialect in ("peft", "kohya"):
        written = load_format("lora").export(pack, base, tmp_path / dialect, dialect=dialect, error=0.0, half=False)
        weights = load_file(written.paths[0])
        assert sum("lora_A" in key or "lora_down" in key for key in weights) == 2 * len(layers)
    written = load_format("webui").export(pack, base, tmp_path / "webui", name="pets")
    for file in (tmp_path / "peft" / "new1.safetensors", tmp_path / "webui" / "pets-new1.safetensors"):
        shapes = {tuple(t.shape) for t in load_file(file).values()}
        widths = base.base.widths or (base.base.context,)
        assert {shape[-1] for shape in shapes} == set(widths)


@pytest.mark.parametrize("name", UNETS)
def test_it_is_verified(model_folder, fitted, capsys, name):
    _, folder = fitted(name)
    assert main(["verify", str(folder), "--model", str(model_folder(name))]) == 0
    assert "base model: matches" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["attencraft", "custom_diffusion", "textual_inversion"])
def test_other_methods_fit_on_sdxl(loaded, picture, method):
    base = loaded("sdxl")
    pack = base.fit(picture, ["cat", "dog"], method=method, config=FitConfig(**QUICK).for_method(method))
    base.unload_pack()
    assert pack.low_rank == (method != "textual_inversion")
    assert base.generate(PROMPT, concepts=pack, **DRAWN).images[0].size == (64, 64)


@pytest.mark.parametrize("method", ["dreambooth", "break_a_scene"])
def test_methods_of_the_whole_unet_are_refused_on_sdxl(loaded, picture, method):
    with pytest.raises(InputError, match="trains the whole UNet"):
        loaded("sdxl").fit(picture, ["cat", "dog"], method=method)
    from sdk import compare

    seen = []
    with pytest.raises(InputError, match="trains the whole UNet"):
        compare(loaded("sdxl"), picture, ["cat", "dog"], methods=["disendiff", method], progress=seen.append)
    assert not seen  # not after hours of other fits


# What is no model of these kinds


def index(folder, **parts):
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(parts))
    return folder


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}, "FluxPipeline, a diffusion transformer"),
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": [1, 2]}, "a diffusion transformer"),
        ({"_class_name": "PixArtSigmaPipeline", "transformer": [1, 2]}, "a diffusion transformer"),
        ({"_class_name": "KandinskyPipeline", "unet": ["diffusers", "X"]}, "another kind of model"),
        (
            {
                "_class_name": "StableDiffusionXLImg2ImgPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
                "text_encoder": [None, None],
                "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            },
            "a refiner",
        ),
        ({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNetMotionModel"]}, "UNetMotionModel"),
        ({"_class_name": 5}, "does not say what it is"),
        ({"_class_name": "\x1b[31m"}, "another kind of model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_folders_are_refused_in_one_line(tmp_path, parts, said):
    with pytest.raises(BaseModelError, match="supported are Stable Diffusion 1.x, 2.x and XL") as refused:
        Personalizer.from_pretrained(index(tmp_path / "model", **parts))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_a_lora_given_as_a_model(loaded, fitted, tmp_path):
    load_format("lora").export(fitted("sd1")[0], loaded("sd1"), tmp_path / "lora")
    with pytest.raises(BaseModelError, match="is a LoRA, no model"):
        Personalizer.from_pretrained(tmp_path / "lora")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("sd1", {"in_channels": 8}, "takes 8 channels for latents of 4"),
        ("sd1", {"class_embed_type": "timestep"}, "other conditions than words"),
        ("sdxl", {"addition_embed_type": None}, "other conditions than Stable Diffusion XL has"),
    ],
)
def test_unets_that_want_something_else_are_refused(model_folder, tmp_path, name, change, said):
    import shutil

    folder = shutil.copytree(model_folder(name), tmp_path / "model")
    config = UNet2DConditionModel.load_config(folder / "unet")
    own = {key: value for key, value in {**config, **change}.items() if not key.startswith("_")}
    if change.get("addition_embed_type", "") is None:
        own = {key: value for key, value in own.items() if key not in ("projection_class_embeddings_input_dim",)}
    UNet2DConditionModel(**own).save_pretrained(folder / "unet")
    with pytest.raises(BaseModelError) as refused:
        Personalizer.from_pretrained(folder, device="cpu")
    assert said in str(refused.value)
