"""Sampling in numpy: DDIM (Song et al., 2021), as the paper samples, and DPM-Solver++ 2M (Lu et al., 2022), faster.

Both give the numbers of diffusers' schedulers with the same configuration.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..disk.checked import Table
from ..errors import BaseModelError


def _damaged(reason: str) -> BaseModelError:
    return BaseModelError(f"the noise levels are damaged ({reason}); export the model again")


class Scheduler(Protocol):
    """One sampling run."""

    timesteps: np.ndarray
    needs_noise: bool

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Return the sample after step ``index``."""


class Levels:
    """A model's noise levels, from its ``scheduler_config.json``.

    Attributes:
        alphas: cumulative products, ``[T]``.
        prediction: ``"epsilon"`` or ``"v_prediction"``.
        offset: added to leading timesteps.
    """

    def __init__(self, config: object) -> None:
        """Compute the levels.

        Raises:
            BaseModelError: a configuration without levels, or with other ones than these samplers know.
        """
        about = Table(config, _damaged)
        schedule = about.text("beta_schedule")
        if schedule not in ("linear", "scaled_linear"):
            raise BaseModelError(f"the beta schedule {schedule!r} is not known; export another model")
        start, end = (about.number(name, 0, 0.999) for name in ("beta_start", "beta_end"))
        count = about.whole("num_train_timesteps", 1000, 100_000)  # up to 999 steps may be asked for
        if schedule == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, count, dtype=np.float32) ** 2
        else:
            betas = np.linspace(start, end, count, dtype=np.float32)
        self.alphas = np.cumprod(1 - betas, dtype=np.float32).astype(np.float64)
        if not self.alphas[-1] > 0 or not self.alphas[0] < 1:
            raise _damaged("beta_start and beta_end leave no noise, or nothing but noise")
        self.prediction = about.choice("prediction_type", ("epsilon", "v_prediction"))
        self.offset = about.whole("steps_offset", 0, 1) if "steps_offset" in about else 0

    def split(self, index: int, prediction: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean sample and the noise that a prediction at timestep ``index`` stands for."""
        signal, noise = np.float32(self.alphas[index] ** 0.5), np.float32((1 - self.alphas[index]) ** 0.5)
        if self.prediction == "v_prediction":
            return signal * sample - noise * prediction, signal * prediction + noise * sample
        return (sample - noise * prediction) / signal, prediction

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, index: int) -> np.ndarray:
        """Return a clean sample at timestep ``index``."""
        return np.float32(self.alphas[index] ** 0.5) * clean + np.float32((1 - self.alphas[index]) ** 0.5) * noise


class Ddim:
    """DDIM; ``eta`` is the share of fresh noise in each step (1: DDPM's variance)."""

    def __init__(self, levels: Levels, steps: int, eta: float) -> None:
        self.levels, self.eta = levels, eta
        self.stride = len(levels.alphas) // steps
        self.timesteps = (np.arange(steps) * self.stride)[::-1].astype(np.int64) + levels.offset
        self.needs_noise = eta > 0

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Equation 12."""
        t = int(self.timesteps[index])
        before = t - self.stride
        now, then = self.levels.alphas[t], self.levels.alphas[max(before, 0)]
        clean, estimated = self.levels.split(t, prediction, sample)
        deviation = self.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        result = np.float32(then**0.5) * clean + np.float32((1 - then - deviation**2) ** 0.5) * estimated
        return result if noise is None else result + np.float32(deviation) * noise


class DpmSolver:
    """DPM-Solver++ of second order, multistep, midpoint; the last step is of first order."""

    needs_noise = False

    def __init__(self, levels: Levels, steps: int) -> None:
        self.levels = levels
        stride = len(levels.alphas) // (steps + 1)
        self.timesteps = (np.arange(steps + 1) * stride)[::-1][:-1].astype(np.int64) + levels.offset
        alphas = levels.alphas[self.timesteps]
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
