"""Models are sampled as they want to be: from the last level, in few steps, against the right target."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from sdk import FitConfig, Personalizer
from sdk.errors import BaseModelError
from sdk.model.denoise import Denoiser
from sdk.model.schedules import check_scheduler
from tests.families.tiny import sd1

LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_a_model_whose_last_level_is_noise_starts_there(loaded):
    scheduler = loaded("zero-snr").sampling_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 999
    assert float(scheduler.alphas_cumprod[-1]) == 0
    assert loaded("zero-snr").sampling.guidance_rescale == 0.7
    scheduler = loaded("sd2").sampling_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 981
    assert loaded("sd2").sampling.guidance_rescale == 0


def test_guidance_rescale_has_its_effect(loaded):
    base = loaded("sd1")
    plain, zero, full = (
        base.generate("a cat", num_inference_steps=2, seed=1, guidance_scale=8.0, guidance_rescale=share).images[0]
        for share in (None, 0.0, 1.0)
    )
    assert plain.tobytes() == zero.tobytes() != full.tobytes()


@pytest.mark.parametrize(
    ("name", "kind", "guidance"),
    [
        ("turbo", "EulerDiscreteScheduler", 1.0),
        ("sdxl-turbo", "EulerAncestralDiscreteScheduler", 1.0),
        ("lcm", "LCMScheduler", 8.5),
    ],
)
def test_distilled_models_keep_their_scheduler_steps_and_guidance(loaded, name, kind, guidance):
    base = loaded(name)
    assert type(base.drawing_scheduler()).__name__ == kind
    assert (base.sampling.steps, base.sampling.guidance_scale) == (4, guidance)
    steps = []
    base.generate("a cat", seed=1, callback_on_step_end=lambda pipe, step, t, values: steps.append(int(t)))
    assert len(steps) == 4
    assert steps[0] == 999
    config = base.default_config()
    assert (config.prior_steps, config.prior_guidance) == (4, guidance)


def test_a_consistency_model_is_told_the_guidance(loaded):
    base = loaded("lcm")
    drawn = [base.generate("a cat", seed=1, guidance_scale=scale).images[0].tobytes() for scale in (2.0, 8.5)]
    assert drawn[0] != drawn[1]
    from diffusers import StableDiffusionPipeline

    wanted = StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.tensor([7.5]), 16)
    torch.testing.assert_close(Denoiser(base)._guidance, wanted)


def test_a_model_that_predicts_pictures_is_trained_to(tmp_path):
    torch.manual_seed(0)
    scheduler = DDIMScheduler(**LEVELS, prediction_type="sample", num_train_timesteps=500)
    sd1(scheduler).save_pretrained(tmp_path / "model")
    base = Personalizer.from_pretrained(tmp_path / "model", device="cpu")
    denoiser = Denoiser(base)
    latents, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.equal(denoiser.target(latents, noise, torch.tensor([3])), latents)
    from sdk.miniworld.references import demo_picture

    config = FitConfig(steps=2, batch_size=2, target_pool=1, prior="none")
    pack = base.fit(demo_picture(), ["cat", "dog"], config=config)
    assert base.generate("a <new1> cat", concepts=pack, num_inference_steps=2).images


def test_other_noise_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(BaseModelError, match="other noise levels"):
        check_scheduler(FlowMatchEulerDiscreteScheduler(), "m")
    with pytest.raises(BaseModelError, match="predicts 'v'"):
        check_scheduler(DDIMScheduler(**LEVELS, prediction_type="v"), "m")


def test_sides_of_latents_as_configurations_state_them(tmp_path):
    torch.manual_seed(0)
    for sample_size, side in (([32, 32], 64), (None, 128)):
        pipe = sd1(sample_size=sample_size)
        assert Personalizer(pipe).resolution == side


def test_an_inpainting_unet_is_told_that_nothing_stays(loaded):
    base = loaded("inpainting")
    behind = base.condition((64, 64))
    assert behind.shape == (1, 5, 32, 32)
    assert (behind[:, 0] == 1).all()
    assert base.latent_shape == (4, 32)
    first = base.pipe.unet.conv_in
    base.generate("a cat", num_inference_steps=1)
    assert base.pipe.unet.conv_in is first
    picture, hole = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    hole[..., :32] = 1
    told = base.condition((64, 64), (picture, hole))
    assert (told[0, 0, :, :16] == 1).all()
    assert (told[0, 0, :, 16:] == 0).all()
    assert not torch.equal(told[:, 1:], behind[:, 1:])
