"""K and V learned in low rank: the same figures whichever way a pack goes."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdk import Concept, ConceptPack
from sdk.combine import merge, route
from sdk.errors import InputError, PackError
from sdk.exports import diffusers_layout, load_into, lora
from sdk.families.layers import cross_attention_layers
from sdk.unet.matrices import LowRank, whole

DRAWN = {"num_inference_steps": 3, "seed": 5}
PROMPT = "a <new1> cat and a <new2> dog"


def low_rank_pack(personalizer, *concepts, seed=0, rank=3):
    """A pack far from the base model, without a fit."""
    generator = torch.Generator().manual_seed(seed)
    key_value = {}
    for name, layer in cross_attention_layers(personalizer.pipe.unet).items():
        pair = []
        for module in (layer.to_k, layer.to_v):
            hidden, context = module.weight.shape
            scale = (0.5 * module.weight.std() / rank**0.5).item()
            down = torch.randn(rank, context, generator=generator)
            pair.append(LowRank(down, scale * torch.randn(hidden, rank, generator=generator)))
        key_value[name] = tuple(pair)
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    rows = table.std() * torch.randn(len(concepts), table.shape[1], generator=generator)
    return ConceptPack(list(concepts), personalizer.base, key_value, rows)


def made_whole(personalizer, pack):
    """The same pack with whole weights, float32 as far as packs are."""
    layers = cross_attention_layers(personalizer.pipe.unet)
    key_value = {
        name: tuple(
            whole(matrix, module.weight.detach())
            for matrix, module in zip(pair, (layers[name].to_k, layers[name].to_v), strict=True)
        )
        for name, pair in pack.key_value.items()
    }
    return ConceptPack(pack.concepts, pack.base, key_value, pack.embeddings)


@pytest.fixture
def pack(personalizer):
    return low_rank_pack(personalizer, Concept("cat", "<new1>"), Concept("dog", "<new2>"))


def pixels(images):
    return [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() for image in images]


def test_a_fit_in_low_rank_learns_both_factors_and_draws_what_it_learned(personalizer, picture, quick, tmp_path):
    """After the second step down moves too: at first up is zero, and with it down's gradient."""
    learned = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(kv_rank=2), seed=3)
    assert learned.low_rank
    for name, pair in learned.key_value.items():
        layer = personalizer.pipe.unet.get_submodule(name)
        for matrix, module in zip(pair, (layer.to_k, layer.to_v), strict=True):
            assert matrix.down.shape == (2, module.in_features)
            assert matrix.up.shape == (module.out_features, 2)
            assert matrix.up.abs().max() > 0
    again = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(kv_rank=2), seed=3)
    assert again.content_hash() == learned.content_hash()
    short = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(kv_rank=2, steps=1), seed=3)
    name = next(iter(learned.key_value))
    assert not torch.equal(short.key_value[name][0].down, learned.key_value[name][0].down)
    before = personalizer.generate(PROMPT, concepts=learned, **DRAWN).images
    read = ConceptPack.from_pretrained(learned.save_pretrained(tmp_path / "pack"))
    assert read.content_hash() == learned.content_hash()
    after = personalizer.generate(PROMPT, concepts=read, **DRAWN).images
    assert [i.tobytes() for i in before] == [i.tobytes() for i in after]


def test_low_rank_draws_what_the_whole_weights_draw(personalizer, pack):
    plain = personalizer.generate("a cat and a dog", **DRAWN).images
    thin = personalizer.generate(PROMPT, concepts=pack, **DRAWN).images
    full = personalizer.generate(PROMPT, concepts=made_whole(personalizer, pack), **DRAWN).images
    assert (pixels(thin)[0] - pixels(full)[0]).abs().max() <= 2  # whole weights are rounded to float16
    assert (pixels(thin)[0] - pixels(plain)[0]).abs().max() > 20


def test_a_fit_in_low_rank_resumes_to_the_bit(personalizer, picture, quick, tmp_path):
    config = quick.with_changes(kv_rank=2, checkpoint_every=1)
    whole_fit = personalizer.fit(picture, ["cat", "dog"], config=config, seed=3)

    usual = {"config": config, "seed": 3, "output_dir": tmp_path / "pack"}

    def stop(report):
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        personalizer.fit(picture, ["cat", "dog"], callback=stop, **usual)
    resumed = personalizer.fit(picture, ["cat", "dog"], resume=True, **usual)
    assert resumed.content_hash() == whole_fit.content_hash()


def test_merged_in_low_rank_is_merged_whole(personalizer, pack):
    """One rank a word, and the closed form's matrices."""
    other = low_rank_pack(personalizer, Concept("dog", "<new1>"), seed=1)
    thin = merge(personalizer, [pack, other])
    full = merge(personalizer, [made_whole(personalizer, pack), made_whole(personalizer, other)])
    assert thin.low_rank
    layers = cross_attention_layers(personalizer.pipe.unet)
    for name, pair in thin.key_value.items():
        for matrix, expected, module in zip(
            pair, full.key_value[name], (layers[name].to_k, layers[name].to_v), strict=True
        ):
            own = module.weight.detach()
            change = whole(matrix, own) - own
            wanted = expected.float() - own
            assert (change - wanted).norm() < 0.02 * wanted.norm(), name
    routed = personalizer.generate("a <new1> cat", concepts=route([pack, other]), **DRAWN)
    assert len(routed.images) == 1


@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_a_lora_of_a_pack_in_low_rank_is_exact(personalizer, tiny_model, pack, tmp_path, dialect):
    written = lora.export(pack, personalizer, tmp_path, dialect=dialect, half=False)
    assert written.figures == {"rank": 3, "error": 0.0}
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipe.load_lora_weights(tmp_path)
    inside = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    load_into(inside, pack)
    generator = torch.Generator().manual_seed(1)
    arguments = (torch.randn(1, 4, 16, 16, generator=generator), 10, torch.randn(1, 8, 32, generator=generator))
    with torch.no_grad():
        theirs, ours = pipe.unet(*arguments).sample, inside.unet(*arguments).sample
    assert (theirs - ours).abs().max() < 1e-5 * ours.abs().max()


def test_diffusers_layout_says_that_it_holds_no_low_rank(personalizer, pack, tmp_path):
    with pytest.raises(InputError, match="export it to lora"):
        diffusers_layout.export(pack, personalizer, tmp_path)


def test_the_packs_own_file_is_a_lora_for_diffusers(personalizer, tiny_model, pack, tmp_path):
    pack.save_pretrained(tmp_path / "pack")
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipe.load_lora_weights(tmp_path / "pack", weight_name="pytorch_lora_weights.safetensors")
    assert pipe.get_list_adapters()


@pytest.mark.parametrize("harm", ["one factor", "other ranks", "both files"])
def test_a_damaged_file_of_low_rank_is_refused(personalizer, pack, tmp_path, harm):
    from safetensors.torch import load_file, save_file

    from sdk.disk.files import sha256_file

    folder = pack.save_pretrained(tmp_path / "pack")
    file = folder / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    key = next(name for name in tensors if "lora_A" in name)
    if harm == "one factor":
        del tensors[key]
    elif harm == "other ranks":
        tensors[key] = tensors[key][:1].contiguous()
    save_file(tensors, file)
    manifest = (folder / "personalizer.json").read_text()
    import json

    about = json.loads(manifest)
    about["files"][file.name] = sha256_file(file)
    if harm == "both files":
        second = folder / "pytorch_custom_diffusion_weights.safetensors"
        save_file({}, second)
        about["files"][second.name] = sha256_file(second)
    (folder / "personalizer.json").write_text(json.dumps(about))
    with pytest.raises(PackError):
        ConceptPack.from_pretrained(folder)


def test_methods_that_train_no_key_and_value_do_not_have_the_setting(personalizer, picture, quick):
    with pytest.raises(InputError, match="kv_rank"):
        personalizer.fit(picture, ["cat", "dog"], method="dreambooth", config=quick.with_changes(kv_rank=2))
