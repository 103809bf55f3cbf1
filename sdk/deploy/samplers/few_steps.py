"""Samplers of distilled models in numpy: Euler's, plain and ancestral (Karras et al., 2022), and that of LCM.

They give the numbers of diffusers' schedulers with the same configuration.
"""

from __future__ import annotations

import numpy as np

from .levels import Levels, Scheduler, damaged

_DATA_SIGMA = 0.5  # of the boundary condition (Luo et al., 2023, equation 9)


class Euler(Scheduler):
    """Steps along the tangent, in samples that are not scaled down: noise over signal."""

    def __init__(self, levels: Levels, steps: int) -> None:
        self.levels = levels
        self.timesteps = levels.timesteps(steps)
        alphas = levels.with_signal[self.timesteps]
        self.sigmas = np.append(((1 - alphas) / alphas) ** 0.5, 0.0).astype(np.float32)
        most = self.sigmas[0]
        self.scale = most if levels.trailing else np.sqrt(most**2 + 1)

    def taken(self, index: int, sample: np.ndarray) -> np.ndarray:
        return sample / np.sqrt(self.sigmas[index] ** 2 + 1)

    def _noised(self, index: int, clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return clean + self.sigmas[index] * noise

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        now, then = self.sigmas[index : index + 2]
        return sample + self._tangent(index, prediction, sample) * (then - now)

    def _tangent(self, index: int, prediction: np.ndarray, sample: np.ndarray) -> np.ndarray:
        now = self.sigmas[index]
        if self.levels.prediction == "epsilon":
            return prediction
        clean = prediction
        if self.levels.prediction == "v_prediction":
            clean = sample / (now**2 + 1) - prediction * (now / np.sqrt(now**2 + 1))
        return (sample - clean) / now


class EulerAncestral(Euler):
    """A step that goes too far, and fresh noise for the rest."""

    needs_noise = True

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        now, then = self.sigmas[index : index + 2]
        up = np.sqrt(then**2 * (now**2 - then**2) / now**2)
        down = np.sqrt(then**2 - up**2)
        assert noise is not None
        return sample + self._tangent(index, prediction, sample) * (down - now) + up * noise


class Lcm(Scheduler):
    """Latent consistency models (Luo et al., 2023): each step goes to the end, and all but the last back into noise."""

    def __init__(self, levels: Levels, steps: int) -> None:
        self.levels = levels
        count = len(levels.alphas)
        trained = trained_steps(levels)
        ladder = (np.arange(1, trained + 1) * (count // trained) - 1)[::-1]
        self.timesteps = ladder[np.floor(np.linspace(0, trained, num=steps, endpoint=False)).astype(np.int64)]
        self.needs_noise = steps > 1
        about = levels.about
        self._stretch = about.number("timestep_scaling", 1e-6, 1e6) if "timestep_scaling" in about else 10.0

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Algorithm 3."""
        t = int(self.timesteps[index])
        clean, _ = self.levels.split(t, prediction, sample)
        scaled = t * self._stretch
        skip = _DATA_SIGMA**2 / (scaled**2 + _DATA_SIGMA**2)
        out = scaled / (scaled**2 + _DATA_SIGMA**2) ** 0.5
        denoised = np.float32(out) * clean + np.float32(skip) * sample
        if index + 1 == len(self.timesteps):
            return denoised
        assert noise is not None
        return self.levels.add_noise(denoised, noise, int(self.timesteps[index + 1]))


def trained_steps(levels: Levels) -> int:
    """Return the number of steps of the sampler that a latent consistency model was distilled from."""
    about, name = levels.about, "original_inference_steps"
    found = about.whole(name, 1, 100_000) if name in about else 50
    if found > len(levels.alphas):
        raise damaged(f"{name} is larger than num_train_timesteps")
    return found
