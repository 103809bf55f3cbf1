"""Sampling in numpy: DDIM (Song et al., 2021), as the paper samples; DPM-Solver++ 2M and UniPC, in fewer steps.

All give the numbers of diffusers' schedulers with the same configuration.
"""

from __future__ import annotations

from typing import Any

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


class _Multistep(Scheduler):
    """What solvers that look back have: the noise of every step over its signal, and none at the end."""

    def __init__(self, levels: Levels, steps: int) -> None:
        self.levels = levels
        self.timesteps = levels.timesteps(steps, 1)
        alphas = levels.with_signal[self.timesteps]
        self.sigmas = np.append(((1 - alphas) / alphas) ** 0.5, 0.0)
        self.before: np.ndarray | None = None

    def _clean(self, index: int, prediction: np.ndarray, sample: np.ndarray) -> np.ndarray:
        return self.levels.split_at(1 / (1 + self.sigmas[index] ** 2), prediction, sample)[0]


class DpmSolver(_Multistep):
    """DPM-Solver++ (Lu et al., 2022) of second order, midpoint; the last step is of first order."""

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Algorithm 2."""
        clean = self._clean(index, prediction, sample)
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


class UniPc(_Multistep):
    """UniPC (Zhao et al., 2023) of second order, B(h) = expm1(h), predicting the clean sample.

    Each step is corrected once the next prediction is there.
    """

    def __init__(self, levels: Levels, steps: int) -> None:
        super().__init__(levels, steps)
        self._earlier: np.ndarray | None = None  # clean samples: of the last step, and of the one before it
        self._from: np.ndarray | None = None  # the sample that the last step began with
        self._order = 1

    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Algorithms 5 and 6 of its appendix."""
        clean = self._clean(index, prediction, sample)
        if self._from is not None:
            sample = self._moved(index - 1, self._from, self.before, self._earlier, clean)
        self.before, self._earlier, self._from = clean, self.before, sample
        last = index + 1 == len(self.timesteps)
        self._order = 2 if self._earlier is not None and not last else 1
        return self._moved(index, sample, clean, self._earlier, None)

    def _moved(
        self, index: int, sample: np.ndarray, clean: Any, earlier: np.ndarray | None, later: np.ndarray | None
    ) -> np.ndarray:
        """The sample after a step: predicted, or corrected by the clean sample that was found at its end."""
        now, then = self.sigmas[index], self.sigmas[index + 1]
        signal = 1 / (1 + then**2) ** 0.5
        if then == 0:
            return clean
        step = np.log(then / now)  # minus the step in log signal-to-noise
        gain = np.expm1(step)
        moved = np.float32(then * signal / (now / (1 + now**2) ** 0.5)) * sample - np.float32(signal * gain) * clean
        second = self._order == 2 and earlier is not None
        slope: Any = 0.0
        if second:
            ratio = np.log(now / self.sigmas[index - 1]) / step  # of the steps; before it is behind
            slope = (clean - earlier) / np.float32(ratio)
        if later is None:
            change = np.float32(0.5) * slope
        elif second:
            first = gain / step - 1
            right = np.array([first, 2 * (first / step - 0.5)]) / gain
            weights = np.linalg.solve(np.array([[1.0, 1.0], [-ratio, 1.0]]), right)
            change = np.float32(weights[0]) * slope + np.float32(weights[1]) * (later - clean)
        else:
            change = np.float32(0.5) * (later - clean)
        return moved - np.float32(signal * gain) * change
