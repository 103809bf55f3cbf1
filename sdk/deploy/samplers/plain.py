"""Sampling in numpy: DDIM (Song et al., 2021), as the paper samples, and DPM-Solver++ 2M (Lu et al., 2022), faster.

Both give the numbers of diffusers' schedulers with the same configuration.
"""

from __future__ import annotations

import numpy as np

from .levels import Levels, Scheduler


class Ddim(Scheduler):
    """DDIM; ``eta`` is the share of fresh noise in each step (1: DDPM's variance)."""

    def __init__(self, levels: Levels, steps: int, eta: float) -> None:
        self.levels, self.eta = levels, eta
        self.stride = len(levels.alphas) // steps
        self.timesteps = levels.timesteps(steps)
        self.needs_noise = eta > 0

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Equation 12."""
        t = int(self.timesteps[index])
        before = t - self.stride
        now, then = self.levels.alphas[t], self.levels.alphas[max(before, 0)]
        clean, estimated = self.levels.split(t, prediction, sample)
        deviation = self.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        left = max(1 - then - deviation**2, 0.0)  # from noise alone it is nothing, but for the rounding
        result = np.float32(then**0.5) * clean + np.float32(left**0.5) * estimated
        return result if noise is None else result + np.float32(deviation) * noise


class DpmSolver(Scheduler):
    """DPM-Solver++ of second order, multistep, midpoint; the last step is of first order."""

    def __init__(self, levels: Levels, steps: int) -> None:
        self.levels = levels
        self.timesteps = levels.timesteps(steps, 1)
        alphas = levels.with_signal[self.timesteps]
        self.sigmas = np.append(((1 - alphas) / alphas) ** 0.5, 0.0)  # noise over signal
        self.before: np.ndarray | None = None

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Algorithm 2."""
        clean, _ = self.levels.split(int(self.timesteps[index]), prediction, sample)
        now, then = self.sigmas[index], self.sigmas[index + 1]
        last, self.before = self.before, clean
        if then == 0:
            return clean
        signal = 1 / (1 + then**2) ** 0.5
        shrink = then * signal / (now / (1 + now**2) ** 0.5)
        step = np.log(now / then)  # in log signal-to-noise
        gain = -signal * np.expm1(-step)
        result = np.float32(shrink) * sample + np.float32(gain) * clean
        if last is not None:
            ratio = np.log(self.sigmas[index - 1] / now) / step
            result = result + np.float32(0.5 * gain / ratio) * (clean - last)
        return result
