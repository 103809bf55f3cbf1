"""Samplers in numpy against diffusers'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm

from sdk.deploy.samplers.choose import sampler
from sdk.deploy.samplers.few_steps import Euler, EulerAncestral, Lcm
from sdk.deploy.samplers.levels import Levels
from sdk.deploy.samplers.plain import Ddim, DpmSolver, UniPc
from sdk.errors import InputError
from sdk.model.schedules import DDIMScheduler

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}


ENDS_IN_NOISE = CONFIG | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def model(sample, timestep):
    """Something smooth that depends on both."""
    return np.tanh(sample * (0.3 + timestep / 1500)) * 0.9


@pytest.mark.parametrize("levels", [CONFIG, CONFIG | {"num_train_timesteps": 500}, ENDS_IN_NOISE])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(levels, prediction, steps, eta):
    if levels is ENDS_IN_NOISE and prediction == "epsilon":
        prediction = "v_prediction"  # of noise alone, noise says nothing
    config = levels | {"prediction_type": prediction}
    theirs, ours = DDIMScheduler.from_config(config), Ddim(Levels(config), steps, eta)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    rng = np.random.default_rng(0)
    a = b = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    for index, t in enumerate(ours.timesteps):
        noise = rng.standard_normal(a.shape).astype(np.float32) if eta else None
        fresh = None if noise is None else torch.from_numpy(noise)
        pushed = torch.from_numpy(model(a, int(t)))
        a = theirs.step(pushed, int(t), torch.from_numpy(a), eta=eta, variance_noise=fresh).prev_sample.numpy()
        b = ours.step(index, model(b, int(t)), b, noise)
    np.testing.assert_allclose(b, a, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("levels", "prediction"), [*((CONFIG, each) for each in PREDICTIONS), (ENDS_IN_NOISE, "v_prediction")]
)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("theirs", "ours"), [(DPMSolverMultistepScheduler, DpmSolver), (UniPCMultistepScheduler, UniPc)]
)
def test_solvers_that_look_back(theirs, ours, levels, prediction, steps):
    config = levels | {"prediction_type": prediction}
    theirs, ours = theirs.from_config(config), ours(Levels(config), steps)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    a = b = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    for index, t in enumerate(ours.timesteps):
        a = theirs.step(torch.from_numpy(model(a, int(t))), int(t), torch.from_numpy(a)).prev_sample.numpy()
        b = ours.step(index, model(b, int(t)), b, None)
    np.testing.assert_allclose(b, a, atol=5e-4, rtol=2e-4)


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize(
    ("theirs", "ours"), [(EulerDiscreteScheduler, Euler), (EulerAncestralDiscreteScheduler, EulerAncestral)]
)
def test_euler(monkeypatch, theirs, ours, steps, prediction, spacing):
    config = CONFIG | {"prediction_type": prediction, "timestep_spacing": spacing}
    compared(monkeypatch, theirs.from_config(config), ours(Levels(config), steps), steps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("further", [{}, {"original_inference_steps": 20, "timestep_scaling": 3.0}])
def test_lcm(monkeypatch, prediction, steps, further):
    config = CONFIG | {"prediction_type": prediction} | further
    compared(monkeypatch, LCMScheduler.from_config(config), Lcm(Levels(config), steps), steps)


def compared(monkeypatch, theirs, ours, steps):
    """All steps with the same fresh noise, how the UNet is given samples, and clean ones in noise."""
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    rng = np.random.default_rng(0)
    first = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(ours.scale, float(theirs.init_noise_sigma), rtol=1e-5)
    fresh = first
    for module in (scheduling_euler_ancestral_discrete, scheduling_lcm):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(fresh))
    for index, t in enumerate(ours.timesteps):
        place = torch.tensor([float(t)] if isinstance(ours, Euler) else [int(t)])
        want = theirs.add_noise(torch.from_numpy(first), torch.from_numpy(first[::-1].copy()), place.expand(2))
        np.testing.assert_allclose(ours.noised(index, first, first[::-1]), want.numpy(), rtol=1e-4, atol=1e-4)
    a = b = ours.scale * first
    for index, t in enumerate(theirs.timesteps):
        fresh = rng.standard_normal(a.shape).astype(np.float32)
        taken = theirs.scale_model_input(torch.from_numpy(a), t).numpy()
        np.testing.assert_allclose(ours.taken(index, b), taken, rtol=1e-4, atol=1e-4)
        pushed = torch.from_numpy(model(taken, int(t)))
        a = theirs.step(pushed, t, torch.from_numpy(a)).prev_sample.numpy()
        b = ours.step(index, model(ours.taken(index, b), int(t)), b, fresh if ours.needs_noise else None)
    np.testing.assert_allclose(b, a, atol=5e-4, rtol=5e-4)


def test_no_more_steps_than_levels():
    levels = Levels(CONFIG | {"num_train_timesteps": 500, "prediction_type": "epsilon"})
    for name, most in (("ddim", 499), ("dpm++", 498), ("dpm", 498), ("unipc", 498)):
        assert len(sampler(levels, name, most, 1.0)().timesteps) == most
        with pytest.raises(InputError, match=f"at most {most}"):
            sampler(levels, name, most + 1, 1.0)
    few = Levels(CONFIG | {"prediction_type": "epsilon", "_class_name": "LCMScheduler"})
    with pytest.raises(InputError, match="at most 50"):
        sampler(few, None, 51, 1.0)


def test_noise_is_added_as_diffusers_does():
    levels = Levels(CONFIG | {"prediction_type": "epsilon"})
    clean, noise = (np.random.default_rng(i).standard_normal((1, 4, 4, 4)).astype(np.float32) for i in range(2))
    theirs = DDIMScheduler.from_config(CONFIG)
    want = theirs.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), torch.tensor([321]))
    np.testing.assert_allclose(levels.add_noise(clean, noise, 321), want.numpy(), atol=1e-5)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="is not known"):
        Levels(CONFIG | {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"})
