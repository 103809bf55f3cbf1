"""A model's noise levels in numpy, and what every sampler on them does."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ...disk.checked import Table
from ...errors import BaseModelError

_NO_SIGNAL = 2.0**-24  # instead of a last level of noise alone, where samplers divide by the signal


def damaged(reason: str) -> BaseModelError:
    """Return the error for a configuration that is not as it was written."""
    return BaseModelError(f"the noise levels are damaged ({reason}); export the model again")


class Levels:
    """A model's noise levels, from its ``scheduler_config.json``.

    Attributes:
        about: the configuration.
        alphas: cumulative products, ``[T]``.
        prediction: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        offset: added to leading timesteps.
        trailing: whether sampling starts at the last level, and not a step before it.
    """

    def __init__(self, config: object) -> None:
        """Compute the levels.

        Raises:
            BaseModelError: a configuration without levels, or with other ones than these samplers know.
        """
        self.about = about = Table(config, damaged)
        schedule = about.text("beta_schedule")
        if schedule not in ("linear", "scaled_linear"):
            raise BaseModelError(f"the beta schedule {schedule!r} is not known; export another model")
        start, end = (about.number(name, 0, 0.999) for name in ("beta_start", "beta_end"))
        count = about.whole("num_train_timesteps", 2, 100_000)
        if schedule == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, count, dtype=np.float32) ** 2
        else:
            betas = np.linspace(start, end, count, dtype=np.float32)
        rescaled = about.values.get("rescale_betas_zero_snr") is True
        if rescaled:
            betas = _to_noise_alone(betas)
        self.alphas = np.cumprod(1 - betas, dtype=np.float32).astype(np.float64)
        if not (self.alphas[-1] > 0 or (rescaled and self.alphas[-1] == 0)) or not self.alphas[0] < 1:
            raise damaged("beta_start and beta_end leave no noise, or nothing but noise")
        self.prediction = about.choice("prediction_type", ("epsilon", "v_prediction", "sample"))
        self.offset = about.whole("steps_offset", 0, 1) if "steps_offset" in about else 0
        self.trailing = about.values.get("timestep_spacing") == "trailing"

    @property
    def with_signal(self) -> np.ndarray:
        """:attr:`alphas`, with a trace of the signal in the last one."""
        return np.append(self.alphas[:-1], max(self.alphas[-1], _NO_SIGNAL))

    def timesteps(self, steps: int, further: int = 0) -> np.ndarray:
        """Return the levels of so many steps, from the noisiest on (Lin et al., WACV 2024, table 2).

        Args:
            steps: of the sampler.
            further: that leading spacing counts but does not do.
        """
        count = len(self.alphas)
        if self.trailing:
            return np.arange(count, 0, -count / steps).round().astype(np.int64) - 1
        stride = count // (steps + further)
        return (np.arange(steps + further) * stride)[::-1][:steps].astype(np.int64) + self.offset

    def split(self, index: int, prediction: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean sample and the noise that a prediction at timestep ``index`` stands for."""
        return self.split_at(self.alphas[index], prediction, sample)

    def split_at(self, alpha: float, prediction: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same for a cumulative product."""
        signal, noise = np.float32(alpha**0.5), np.float32((1 - alpha) ** 0.5)
        if self.prediction == "v_prediction":
            return signal * sample - noise * prediction, signal * prediction + noise * sample
        if self.prediction == "sample":
            return prediction, (sample - signal * prediction) / noise
        return (sample - noise * prediction) / signal, prediction

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, index: int) -> np.ndarray:
        """Return a clean sample at timestep ``index``."""
        return np.float32(self.alphas[index] ** 0.5) * clean + np.float32((1 - self.alphas[index]) ** 0.5) * noise


class Scheduler(ABC):
    """One sampling run.

    Attributes:
        levels: the model's.
        timesteps: of the steps, ``[N]``.
        needs_noise: whether :meth:`step` takes fresh noise.
        scale: deviation of the noise that sampling starts from.
    """

    levels: Levels
    timesteps: np.ndarray
    needs_noise = False
    scale = np.float32(1)

    def taken(self, index: int, sample: np.ndarray) -> np.ndarray:
        """Return a sample before step ``index`` as the UNet takes it."""
        return sample

    def noised(self, index: int, clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return a clean sample as it would be before step ``index``; behind the last step it stays clean."""
        return clean if index == len(self.timesteps) else self._noised(index, clean, noise)

    def _noised(self, index: int, clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self.levels.add_noise(clean, noise, int(self.timesteps[index]))

    @abstractmethod
    def step(self, index: int, prediction: np.ndarray, sample: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Return the sample after step ``index``."""


def _to_noise_alone(betas: np.ndarray) -> np.ndarray:
    """Stretch noise levels so that the last one is noise alone (Lin et al., WACV 2024, algorithm 1)."""
    signal = np.cumprod(1 - betas, dtype=np.float32) ** np.float32(0.5)
    first, last = signal[0], signal[-1]
    kept = ((signal - last) * (first / (first - last))) ** 2
    return 1 - np.concatenate([kept[:1], kept[1:] / kept[:-1]])
