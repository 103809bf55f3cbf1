"""Drawing, number by number: whose seed, whose prompt, whose weights, and what is kept of a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Concept, ConceptPack
from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.errors import InputError
from sdk.fit import priors_for
from sdk.images.image_io import to_tensor


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def pack_of(personalizer, nouns=("cat", "dog"), seed=0, strength=0.3):
    """A pack far from the base model, without a fit."""
    generator = torch.Generator().manual_seed(seed)
    key_value = {}
    for name, module in personalizer.pipe.unet.named_modules():
        if name.endswith("attn2"):
            pair = [w.weight.detach() for w in (module.to_k, module.to_v)]
            key_value[name] = tuple(w + strength * w.std() * torch.randn(w.shape, generator=generator) for w in pair)
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    rows = table.std() * torch.randn(len(nouns), table.shape[1], generator=generator)
    concepts = [Concept(noun, f"<new{index}>") for index, noun in enumerate(nouns, 1)]
    return ConceptPack(concepts, personalizer.base, key_value, rows)


def watched(personalizer):
    """Note what the UNet is given in every step: latents, timestep and text states."""
    seen = []

    def note(module, arguments, keywords):
        seen.append((arguments[0].clone(), int(arguments[1]), keywords["encoder_hidden_states"].clone()))

    return seen, personalizer.pipe.unet.register_forward_pre_hook(note, with_kwargs=True)


def test_pictures_come_prompt_by_prompt_each_with_its_own_seed(personalizer):
    prompts = ["a cat", "a dog in the snow"]
    together = personalizer.generate(prompts, num_images=3, seed=7, num_inference_steps=2).images
    assert len(together) == 6
    for index, image in enumerate(together):
        alone = personalizer.generate(prompts[index // 3], seed=7 + index, num_inference_steps=2).images[0]
        assert abs(pixels(image) - pixels(alone)).max() <= 1


def test_more_pictures_than_a_batch_holds_keep_their_seeds(personalizer):
    many = personalizer.generate("a cat", num_images=70, seed=3, num_inference_steps=1).images
    for index in (0, 31, 32, 33, 63, 64, 69):
        alone = personalizer.generate("a cat", seed=3 + index, num_inference_steps=1).images[0]
        assert abs(pixels(many[index]) - pixels(alone)).max() <= 1


def test_each_prompt_has_its_own_negative_prompt(personalizer):
    prompts, negatives = ["a cat", "a dog"], ["night", "the beach"]
    both = personalizer.generate(prompts, negative_prompt=negatives, seed=1, num_inference_steps=2).images
    same = personalizer.generate(prompts, negative_prompt="night", seed=1, num_inference_steps=2).images
    for index, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = personalizer.generate(prompt, negative_prompt=negative, seed=1 + index, num_inference_steps=2).images[0]
        assert abs(pixels(both[index]) - pixels(alone)).max() <= 1
    assert abs(pixels(same[0]) - pixels(both[0])).max() <= 1
    assert abs(pixels(same[1]) - pixels(both[1])).max() > 1


def test_a_generator_gives_each_picture_a_seed_of_its_own(personalizer):
    first, again = (
        personalizer.generate(
            ["a cat", "a cat"], num_images=2, generator=torch.Generator().manual_seed(1), num_inference_steps=1
        ).images
        for _ in range(2)
    )
    assert len({image.tobytes() for image in first}) == 4
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    one = torch.Generator().manual_seed(1)
    later = [personalizer.generate("a cat", generator=one, num_inference_steps=1).images[0] for _ in range(2)]
    assert later[0].tobytes() != later[1].tobytes()


def test_without_a_seed_pictures_differ(personalizer):
    drawn = [personalizer.generate("a cat", num_inference_steps=1).images[0].tobytes() for _ in range(3)]
    assert len(set(drawn)) == 3


def test_wrong_counts_of_packs_and_generators_are_refused(personalizer):
    pack = pack_of(personalizer)
    with pytest.raises(InputError, match="one for each of the 2 prompts, got 1"):
        personalizer.generate(["a cat", "a dog"], concepts=[pack])
    with pytest.raises(InputError, match="must be packs"):
        personalizer.generate("a cat", concepts=["pack"])
    with pytest.raises(InputError, match="each of the 2 pictures, got 1"):
        personalizer.generate("a cat", num_images=2, generator=[torch.Generator()])
    with pytest.raises(InputError, match="at least one prompt"):
        personalizer.generate([])


def test_what_the_unet_is_given(personalizer):
    """Negative prompts first, then prompts, each with its states; a picture its noise; without guidance a row each."""
    seen, hook = watched(personalizer)
    personalizer.generate(
        ["a cat", "a dog"], negative_prompt="night", seed=4, num_inference_steps=2, guidance_scale=3.0
    )
    personalizer.generate("a cat", seed=4, num_inference_steps=2, guidance_scale=1.0)
    personalizer.generate("a cat", seed=4, num_inference_steps=2, guidance_scale=1.5)
    hook.remove()
    assert [len(latents) for latents, _, _ in seen] == [4, 4, 1, 1, 2, 2]
    states = personalizer.pipe.encode_prompt(["night", "night", "a cat", "a dog"], "cpu", 1, False)[0]
    torch.testing.assert_close(seen[0][2], states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[2][2], states[2:3], atol=1e-5, rtol=1e-5)
    for index, seed in enumerate((4, 5)):
        noise = torch.randn(1, *seen[0][0].shape[1:], generator=torch.Generator().manual_seed(seed))[0]
        assert torch.equal(seen[0][0][index], noise)
        assert torch.equal(seen[0][0][2 + index], noise)
    assert seen[0][1] > seen[1][1]


def test_the_kept_part_of_a_picture_is_at_the_noise_level_of_each_step(personalizer, picture):
    """With one noise for all steps, each picture's own; the hole is drawn."""
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, picture.width // 2, picture.height))
    seen, hook = watched(personalizer)
    personalizer.inpaint(picture, mask, "a cat", num_images=2, seed=3, num_inference_steps=4, guidance_scale=1.0)
    hook.remove()
    side = personalizer.base.resolution
    vae = personalizer.pipe.vae
    with torch.no_grad():
        small = to_tensor(picture.resize((side, side), Image.Resampling.BICUBIC))[None]
        clean = vae.encode(small).latent_dist.mode()[0] * vae.config.scaling_factor
    kept = slice(clean.shape[-1] // 2, None)
    noises = []
    for latents, timestep, _ in seen[1:]:
        alpha = personalizer.pipe.scheduler.alphas_cumprod[timestep]
        noises.append((latents - alpha.sqrt() * clean) / (1 - alpha).sqrt())
    for each in noises[1:]:
        torch.testing.assert_close(each[..., kept], noises[0][..., kept], atol=2e-2, rtol=1e-2)
        assert not torch.allclose(each[..., : kept.start], noises[0][..., : kept.start], atol=2e-2)
    for index in (0, 1):
        assert noises[0][index][..., kept].std() == pytest.approx(1, abs=0.1)
    assert not torch.allclose(noises[0][0], noises[0][1], atol=0.1)
    start = seen[0][0][..., kept]  # is not the noise that the picture is drawn from
    assert torch.corrcoef(torch.stack([start[0].flatten(), noises[0][0][..., kept].flatten()]))[0, 1].abs() < 0.3


def test_a_callback_may_change_what_is_redrawn(personalizer, picture):
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, picture.width // 2, picture.height))
    steps = []

    def to_zero(pipe, step, timestep, values):
        steps.append(step)
        return {"latents": torch.zeros_like(values["latents"])}

    seen, hook = watched(personalizer)
    arguments = {"seed": 3, "num_inference_steps": 3, "guidance_scale": 1.0}
    personalizer.inpaint(picture, mask, "a cat", callback_on_step_end=to_zero, **arguments)
    hook.remove()
    half = seen[1][0].shape[-1] // 2
    assert steps == [0, 1, 2]
    for latents, _, _ in seen[1:]:
        assert latents[..., :half].abs().max() == 0
        assert latents[..., half:].abs().max() > 0


def test_any_touched_cell_is_redrawn(personalizer, picture):
    """One white pixel in a cell of the latents is enough; the picture keeps all black pixels."""
    side = personalizer.base.resolution
    small = picture.resize((side, side), Image.Resampling.BICUBIC)
    mask = Image.new("L", (side, side), 0)
    mask.putpixel((11, 6), 255)
    seen, hook = watched(personalizer)
    drawn = personalizer.inpaint(small, mask, "a cat", seed=3, num_inference_steps=3, guidance_scale=1.0).images[0]
    hook.remove()
    alphas = personalizer.pipe.scheduler.alphas_cumprod
    vae = personalizer.pipe.vae
    with torch.no_grad():
        clean = vae.encode(to_tensor(small)[None]).latent_dist.mode()[0] * vae.config.scaling_factor
    noises = [(x - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt() for x, t, _ in seen[1:]]
    changed = ((noises[0] - noises[1]).abs().amax((0, 1)) > 3e-2).nonzero().tolist()
    assert changed == [[6 // 2, 11 // 2]]  # two pixels to a cell
    different = (pixels(drawn) != pixels(small)).any(2)
    different[6, 11] = False
    assert not different.any()


def test_a_prompt_longer_than_the_text_encoder_reads_is_noted(personalizer):
    pack = pack_of(personalizer)
    result = personalizer.generate("a <new1> cat " + "very " * 100, concepts=pack, num_inference_steps=1)
    assert len(result.notes) == 1
    assert "longer than 32 tokens" in result.notes[0]
    assert personalizer.generate("a <new1> cat and a <new2> dog", concepts=pack, num_inference_steps=1).notes == []


def test_each_generated_prior_has_a_seed_and_a_prompt_of_its_own(personalizer):
    """The thirty-third too: they are drawn in parts."""
    config = FitConfig(prior_count=35, prior_steps=1, prior_prompts=("photo of {each}", "{all}"), prior_guidance=3.0)
    priors = priors_for(personalizer, resolve_concepts(["cat", "dog"]), config)
    prompts = ["photo of a cat", "photo of a dog", "a cat and a dog"]
    assert [prior.caption for prior in priors] == [prompts[index % 3] for index in range(35)]
    for index in (0, 1, 2, 31, 32, 33, 34):
        alone = personalizer.generate(prompts[index % 3], seed=index, num_inference_steps=1, guidance_scale=3.0)
        assert abs(pixels(priors[index].image) - pixels(alone.images[0])).max() <= 1
