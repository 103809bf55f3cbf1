"""Samplers in numpy against diffusers'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sdk.deploy.schedulers import Ddim, DpmSolver, Levels

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


def model(sample, timestep):
    """Something smooth that depends on both."""
    return np.tanh(sample * (0.3 + timestep / 1500)) * 0.9


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(prediction, steps, eta):
    config = CONFIG | {"prediction_type": prediction}
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


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 10, 20])
def test_dpm_solver(prediction, steps):
    config = CONFIG | {"prediction_type": prediction}
    theirs, ours = DPMSolverMultistepScheduler.from_config(config), DpmSolver(Levels(config), steps)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    a = b = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    for index, t in enumerate(ours.timesteps):
        a = theirs.step(torch.from_numpy(model(a, int(t))), int(t), torch.from_numpy(a)).prev_sample.numpy()
        b = ours.step(index, model(b, int(t)), b, None)
    np.testing.assert_allclose(b, a, atol=2e-4, rtol=2e-4)


def test_noise_is_added_as_diffusers_does():
    levels = Levels(CONFIG | {"prediction_type": "epsilon"})
    clean, noise = (np.random.default_rng(i).standard_normal((1, 4, 4, 4)).astype(np.float32) for i in range(2))
    theirs = DDIMScheduler.from_config(CONFIG)
    want = theirs.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), torch.tensor([321]))
    np.testing.assert_allclose(levels.add_noise(clean, noise, 321), want.numpy(), atol=1e-5)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="is not known"):
        Levels(CONFIG | {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"})
