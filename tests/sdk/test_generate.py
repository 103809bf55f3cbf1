"""Drawing with packs: switching, mixing in one batch, LoRA beside them, inpainting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import ConceptPack, Personalizer
from sdk.errors import BaseModelError, InputError
from sdk.families.layers import cross_attention_layers
from sdk.sampling.sampler import _project


@pytest.fixture
def packs(personalizer, picture, quick):
    strong = quick.with_changes(learning_rate=3e-2)
    made = [personalizer.fit(picture, ["cat", "dog"], config=strong, seed=seed) for seed in (0, 1)]
    personalizer.unload_pack()
    return made


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def draw(personalizer, prompt="a <new1> cat", **arguments):
    return personalizer.generate(prompt, seed=5, num_inference_steps=3, **arguments).images


def test_load_switch_and_unload(personalizer, packs):
    plain = pixels(draw(personalizer, "a cat")[0])
    first, second = (pixels(draw(personalizer, "a cat", concepts=p)[0]) for p in packs)
    assert not np.array_equal(plain, first)
    assert not np.array_equal(first, second)
    personalizer.load_pack(packs[0])
    assert np.array_equal(pixels(draw(personalizer, "a cat")[0]), first)
    personalizer.unload_pack()
    assert np.array_equal(pixels(draw(personalizer, "a cat")[0]), plain)


def test_two_packs_and_the_base_in_one_batch(personalizer, packs):
    prompts = ["a <new1> cat", "a <new1> cat", "a cat"]
    mixed = draw(personalizer, prompts, concepts=[*packs, None])
    for index, (prompt, pack) in enumerate(zip(prompts, [*packs, None], strict=True)):
        alone = personalizer.generate(prompt, seed=5 + index, num_inference_steps=3, concepts=[pack]).images[0]
        assert np.abs(pixels(mixed[index]) - pixels(alone)).max() <= 1


def test_cached_keys_and_values_equal_folded_weights(personalizer, packs, tiny_model):
    """The pictures of a pack are those of a model whose weights and token table really were replaced."""
    pack = packs[0]
    folded = Personalizer.from_pretrained(tiny_model, device="cpu")
    with torch.no_grad():
        for layer, (key, value) in pack.key_value.items():
            module = folded.pipe.unet.get_submodule(layer)
            module.to_k.weight.copy_(key)
            module.to_v.weight.copy_(value)
        folded.pipe.tokenizer.add_tokens(pack.tokens)
        folded.pipe.text_encoder.resize_token_embeddings(len(folded.pipe.tokenizer), mean_resizing=False)
        folded.pipe.text_encoder.get_input_embeddings().weight[-2:] = pack.embeddings.float()
    folded.pipe.scheduler = folded.sampling_scheduler()
    folded.pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    expected = folded.pipe(
        "a <new1> cat and a <new2> dog", num_inference_steps=3, guidance_scale=6.0, eta=1.0, generator=generator
    ).images[0]
    got = draw(personalizer, "a <new1> cat and a <new2> dog", concepts=pack)[0]
    assert np.abs(pixels(got) - pixels(expected)).max() <= 1


def test_a_picture_does_not_depend_on_its_batch(personalizer, packs):
    together = personalizer.generate(
        "a <new1> cat", num_images=3, seed=5, num_inference_steps=2, concepts=packs[0]
    ).images
    alone = personalizer.generate("a <new1> cat", seed=7, num_inference_steps=2, concepts=packs[0]).images[0]
    assert np.abs(pixels(together[2]) - pixels(alone)).max() <= 1


def test_reloaded_pack_draws_the_same_bits(personalizer, packs, tmp_path):
    packs[0].save_pretrained(tmp_path / "pack")
    again = ConceptPack.from_pretrained(tmp_path / "pack")
    a, b = (draw(personalizer, concepts=p)[0] for p in (packs[0], again))
    assert np.array_equal(pixels(a), pixels(b))


def test_generators_seeds_and_guidance(personalizer):
    one = personalizer.generate(
        "a cat", num_images=2, generator=torch.Generator().manual_seed(1), num_inference_steps=2
    )
    two = personalizer.generate(
        "a cat", num_images=2, generator=torch.Generator().manual_seed(1), num_inference_steps=2
    )
    assert np.array_equal(pixels(one.images[1]), pixels(two.images[1]))
    assert not np.array_equal(pixels(one.images[0]), pixels(one.images[1]))
    weak = draw(personalizer, "a cat", guidance_scale=1.0)
    negative = draw(personalizer, "a cat", negative_prompt="night")
    assert not np.array_equal(pixels(weak[0]), pixels(negative[0]))
    own = [torch.Generator().manual_seed(5)]
    assert np.array_equal(
        pixels(personalizer.generate("a cat", generator=own, num_inference_steps=3).images[0]),
        pixels(draw(personalizer, "a cat")[0]),
    )


def test_other_sizes_and_callbacks(personalizer):
    steps = []

    def watch(pipe, step, timestep, values):
        steps.append(step)
        return values

    image = personalizer.generate(
        "a cat", height=32, width=64, num_inference_steps=3, callback_on_step_end=watch
    ).images[0]
    assert image.size == (64, 32)
    assert steps == [0, 1, 2]


def test_lora_stays_beside_the_pack(personalizer, packs, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    layer = next(iter(packs[0].key_value))
    module = personalizer.pipe.unet.get_submodule(layer)
    state = {}
    for name in ("to_k", "to_q"):
        out, inputs = getattr(module, name).weight.shape
        state[f"unet.{layer}.{name}.lora_A.weight"] = torch.randn(2, inputs)
        state[f"unet.{layer}.{name}.lora_B.weight"] = torch.randn(out, 2)
    save_file(state, tmp_path / "lora.safetensors")
    plain = pixels(draw(personalizer, "a cat")[0])
    packed = pixels(draw(personalizer, concepts=packs[0])[0])
    personalizer.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    both = pixels(draw(personalizer, concepts=packs[0])[0])
    lora_only = pixels(draw(personalizer, "a cat")[0])
    assert not np.array_equal(both, packed)
    assert not np.array_equal(both, lora_only)
    # On K the two add up: the pack's weights plus the LoRA's product.
    states = torch.randn(4, module.to_k.in_features)
    got = _project(module.to_k, states, [(slice(None), packs[0])], layer, 0)
    delta = state[f"unet.{layer}.to_k.lora_B.weight"] @ state[f"unet.{layer}.to_k.lora_A.weight"]
    torch.testing.assert_close(got, states @ (packs[0].key_value[layer][0].float() + delta).T, atol=1e-4, rtol=1e-4)
    personalizer.unload_lora_weights()
    assert np.array_equal(pixels(draw(personalizer, "a cat")[0]), plain)
    assert np.array_equal(pixels(draw(personalizer, concepts=packs[0])[0]), packed)


def test_inpaint_redraws_the_hole_and_nothing_else(personalizer, packs, picture):
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (16, 16, 48, 48))
    side = personalizer.base.resolution
    small = picture.resize((side, side), Image.Resampling.BICUBIC)
    images = [
        personalizer.inpaint(picture, mask, "a <new2> dog", concepts=packs[0], seed=s, num_inference_steps=4).images[0]
        for s in (1, 2)
    ]
    hole = np.zeros((side, side), bool)
    hole[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    for image in images:
        assert np.array_equal(pixels(image)[~hole], pixels(small)[~hole])
        assert not np.array_equal(pixels(image)[hole], pixels(small)[hole])
    assert not np.array_equal(pixels(images[0]), pixels(images[1]))


def test_inpaint_refuses_useless_masks(personalizer, packs, picture):
    with pytest.raises(InputError, match="black everywhere"):
        personalizer.inpaint(picture, Image.new("L", picture.size, 0), "a dog")
    with pytest.raises(InputError, match="picture's size"):
        personalizer.inpaint(picture, Image.new("L", (20, 20), 255), "a dog")


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ("", {}, "empty"),
        ("a <new3> cat", {}, "not learned"),
        ("a <new1> dog", {}, "noun must follow"),
        ("a <new1>", {}, "noun must follow"),
        ("a cat", {"num_images": 0}, "num_images"),
        ("a cat", {"height": 33}, "multiple"),
        ("a cat", {"num_inference_steps": 0}, "num_inference_steps"),
        ("a cat", {"num_inference_steps": 1000}, "num_inference_steps"),
        (["a cat", "a dog"], {"negative_prompt": ["x"]}, "negative prompt"),
        ("a " + "very " * 40 + "<new1> cat", {}, "cut off"),
    ],
)
def test_bad_requests_are_refused(personalizer, packs, prompt, arguments, message):
    count = 1 if isinstance(prompt, str) else len(prompt)
    with pytest.raises(InputError, match=message):
        personalizer.generate(prompt, concepts=[packs[0]] * count, **arguments)


def test_tokens_without_a_pack_are_refused(personalizer):
    with pytest.raises(InputError, match="no pack is in use"):
        personalizer.generate("a <new1> cat")


def test_a_prompt_without_tokens_works_with_a_note(personalizer, packs):
    result = personalizer.generate("a cat", concepts=packs[0], num_inference_steps=1)
    assert "names no learned token" in result.notes[0]
    assert personalizer.generate("a cat", num_inference_steps=1).notes == []


def test_words_between_token_and_noun(personalizer, packs):
    assert draw(personalizer, "a <new1> big red cat", concepts=packs[0])


def test_a_pack_of_another_base_is_refused(personalizer, packs):
    with torch.no_grad():
        next(iter(cross_attention_layers(personalizer.pipe.unet).values())).to_k.weight.mul_(1.01)
    other = Personalizer(personalizer.pipe, "other")
    with pytest.raises(BaseModelError, match="weights are others"):
        other.load_pack(packs[0])
    with pytest.raises(BaseModelError, match="fit the picture again"):
        other.generate("a <new1> cat", concepts=packs[0])


def test_a_pack_of_the_whole_unet_draws_beside_a_lora(personalizer, packs, tmp_path):
    """A LoRA wraps layers whose weights the pack replaces."""
    from peft import LoraConfig

    unet = personalizer.pipe.unet
    whole = ConceptPack(
        packs[0].concepts,
        packs[0].base,
        {},
        packs[0].embeddings,
        unet={
            name: weight.detach() * 1.2
            for name, weight in unet.named_parameters()
            if name.endswith("attn1.to_q.weight")
        },
        method="dreambooth",
    )
    before = pixels(draw(personalizer, concepts=whole)[0])
    assert (before != pixels(draw(personalizer, concepts=packs[0])[0])).any()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=True))  # changes nothing yet
    assert abs(pixels(draw(personalizer, concepts=whole)[0]) - before).max() <= 1
