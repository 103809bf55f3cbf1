"""A scheduler that a user sets is sampled with; what is given and has no effect is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image

from sdk import Personalizer
from sdk.errors import InputError
from sdk.images.image_io import square, to_tensor

KINDS = [
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
]
STEPS = {"num_inference_steps": 4, "seed": 3}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def set_scheduler(personalizer, kind):
    personalizer.pipe.scheduler = kind.from_config(personalizer.pipe.scheduler.config)
    return personalizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_that_was_set_draws_what_the_pipeline_draws(tiny_model, kind):
    personalizer = set_scheduler(Personalizer.from_pretrained(tiny_model, device="cpu"), kind)
    steps = []
    image = personalizer.generate("a cat", guidance_scale=3.0, progress=lambda e: steps.append(e), **STEPS).images[0]
    personalizer.pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    asked = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 1.0, "generator": generator}
    want = personalizer.pipe("a cat", **asked).images[0]
    assert abs(pixels(image) - pixels(want)).max() <= 1
    total = len(personalizer.pipe.scheduler.timesteps)
    assert [(event.done, event.total) for event in steps] == [(done, total) for done in range(total + 1)]
    again = personalizer.generate("a cat", guidance_scale=3.0, **STEPS).images[0]
    assert again.tobytes() == image.tobytes()  # nothing is left in the user's own


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_from_a_picture_as_diffusers_does(tiny_model, picture, kind):
    personalizer = set_scheduler(Personalizer.from_pretrained(tiny_model, device="cpu"), kind)
    asked = {"num_inference_steps": 6, "guidance_scale": 3.0, "strength": 0.5, "eta": 0.0}
    image = personalizer.img2img(picture, "a cat", seed=3, **asked).images[0]
    parts = dict(personalizer.pipe.components) | {"scheduler": kind.from_config(personalizer.pipe.scheduler.config)}
    pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    small = square(picture, personalizer.resolution)
    with torch.no_grad():
        latents = pipe.vae.encode(to_tensor(small)[None]).latent_dist.mode() * pipe.vae.config.scaling_factor
    want = pipe("a cat", image=latents, generator=torch.Generator().manual_seed(3), **asked).images[0]
    assert abs(pixels(image) - pixels(want)).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_paints_over_a_part(tiny_model, picture, kind):
    personalizer = set_scheduler(Personalizer.from_pretrained(tiny_model, device="cpu"), kind)
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 32, 64))
    drawn, other = (
        personalizer.inpaint(picture, mask, "a cat", num_inference_steps=4, seed=seed).images[0] for seed in (3, 4)
    )
    small = square(picture, personalizer.resolution)
    right = (16, 0, 32, 32)
    assert drawn.crop(right).tobytes() == small.crop(right).tobytes()
    assert drawn.tobytes() != other.tobytes()


def test_the_kept_part_is_at_the_level_of_each_step(personalizer, picture):
    """Of a scheduler whose levels are its own: the kept latents lie as far from the picture as its sigmas say."""
    set_scheduler(personalizer, EulerDiscreteScheduler)
    seen = []

    def note(pipe, step, timestep, values):
        seen.append((pipe.scheduler.sigmas[step], values["latents"].clone()))

    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 32, 64))
    personalizer.inpaint(picture, mask, "a cat", callback_on_step_end=note, num_inference_steps=5, seed=1)
    given = []
    hook = personalizer.pipe.unet.register_forward_pre_hook(lambda m, a, k: given.append((a, k)), with_kwargs=True)
    personalizer.inpaint(picture, mask, "a cat", num_inference_steps=5, seed=1, guidance_scale=1.0)
    hook.remove()
    vae = personalizer.pipe.vae
    with torch.no_grad():
        small = to_tensor(square(picture, personalizer.resolution))[None]
        clean = vae.encode(small).latent_dist.mode()[0] * vae.config.scaling_factor
    half = clean.shape[-1] // 2
    sigmas = [float(sigma) for sigma, _ in seen]
    noises = []
    for (arguments, _), sigma in list(zip(given, sigmas, strict=True))[1:]:
        unscaled = arguments[0][0] * (sigma**2 + 1) ** 0.5
        noises.append(((unscaled - clean) / sigma)[..., half:])
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=2e-2, rtol=1e-2)
    assert noises[0].std() == pytest.approx(1, abs=0.1)


def test_what_a_scheduler_has_no_use_for_is_noted(personalizer):
    assert personalizer.generate("a cat", eta=0.5, **STEPS).notes == []
    set_scheduler(personalizer, EulerDiscreteScheduler)
    assert personalizer.generate("a cat", **STEPS).notes == []
    noted = personalizer.generate("a cat", eta=0.5, **STEPS).notes
    assert noted == ["eta has no effect with EulerDiscreteScheduler"]


def test_one_that_cannot_sample_the_model_is_refused(personalizer, picture):
    personalizer.pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match=r"FlowMatchEulerDiscreteScheduler cannot sample this model.*such as DDIM"):
        personalizer.generate("a cat", **STEPS)

    class WithoutNoise(DDIMScheduler):
        add_noise = property()

    set_scheduler(personalizer, DDIMScheduler)
    personalizer.pipe.scheduler = WithoutNoise.from_config(personalizer.pipe.scheduler.config)
    with pytest.raises(InputError, match="WithoutNoise cannot start from a picture"):
        personalizer.img2img(picture, "a cat", **STEPS)


def test_the_loaded_scheduler_means_ddim_as_the_paper_samples(personalizer):
    before = personalizer.generate("a cat", **STEPS).images[0].tobytes()
    own = personalizer.pipe.scheduler
    set_scheduler(personalizer, EulerDiscreteScheduler)
    assert personalizer.generate("a cat", **STEPS).images[0].tobytes() != before
    personalizer.pipe.scheduler = own
    assert personalizer.generate("a cat", **STEPS).images[0].tobytes() == before


def test_callbacks_count_the_steps_of_the_whole_call(personalizer):
    steps = []
    personalizer.generate(
        "a cat", num_images=18, num_inference_steps=2, seed=1, callback_on_step_end=lambda p, i, t, v: steps.append(i)
    )
    assert steps == [0, 1, 2, 3]


def test_learned_tokens_in_negative_prompts_are_checked(personalizer):
    from sdk import Concept, ConceptPack

    pack = ConceptPack([Concept("cat", "<new1>")], personalizer.base, {}, torch.zeros(1, personalizer.base.context))
    draw = personalizer.generate
    assert draw("a <new1> cat", concepts=pack, negative_prompt="a <new1> cat", **STEPS).notes == []
    for negative, message in (("a <new2> cat", "which was not learned"), ("a <new1> dog", "noun must follow")):
        with pytest.raises(InputError, match=message):
            draw("a <new1> cat", concepts=pack, negative_prompt=negative, **STEPS)
    noted = draw("a <new1> cat", concepts=pack, negative_prompt="a <new9> cat", guidance_scale=1.0, **STEPS).notes
    assert noted == ["the negative prompt has no effect, because guidance_scale is not above 1"]
