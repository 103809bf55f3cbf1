"""The UNet's part of a drawing: whole steps, and what a speed leaves out of others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import BaseModelError
from ..rules.speed import Speed
from .engines.graph import Bound
from .model import ExportedModel
from .onnx_folder import SHALLOW


class Denoiser:
    """Predicts what one batch takes off its latents, step by step.

    Args:
        model: the exported model.
        given: what its graphs take beside latents and timesteps, by name, rows of negative prompts first.
        guided: whether there are negative prompts.
        speed: what is left out.
        behind: what an inpainting UNet is told beside the latents, ``[1, 1 + C, h, w]``.
    """

    def __init__(
        self,
        model: ExportedModel,
        given: Mapping[str, np.ndarray],
        guided: bool,
        speed: Speed,
        behind: np.ndarray | None,
    ) -> None:
        self.model, self.given, self.guided, self.speed, self.behind = model, given, guided, speed, behind
        self._bound: dict[str, Bound] = {}
        self._deep: np.ndarray | None = None
        self._steps, self._skipped = 0, 0

    def predict(self, sample: np.ndarray, timestep: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Return what is predicted with negative prompts, ``None`` in a step without guidance, and with prompts.

        Args:
            sample: latents as the UNet takes them, ``[B, C, h, w]``.
            timestep: a scalar.
        """
        guided = self.guided and self.speed.guided(float(timestep), len(self.model.levels.alphas))
        if self.guided and not guided and not self._skipped:
            self._skipped, self._bound = len(sample), {}  # from here on the prompts' rows alone
        taken = np.concatenate([sample, sample]) if guided else sample
        if self.behind is not None:
            taken = np.concatenate([taken, np.repeat(self.behind, len(taken), 0)], 1)
        answer = self._computed({"sample": taken, "timestep": np.asarray(timestep)}).astype(np.float32)
        expected = (len(taken), *sample.shape[1:])
        if answer.shape != expected:
            raise BaseModelError(f"the UNet answers {list(answer.shape)} to {list(expected)}; export the model again")
        if not guided:
            return None, answer
        without, with_it = np.split(answer, 2)
        return without, with_it

    def _computed(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        whole = self._deep is None or self._steps % self.speed.every == 0
        self._steps += 1
        if not whole and self._deep is not None:
            deep = self._deep[-len(feeds["sample"]) :]
            return self._graph(SHALLOW).run({**feeds, "deep_features": deep}, ["out_sample"])[0]
        if self.speed.every == 1:
            return self._graph("unet").run(feeds, ["out_sample"])[0]
        answer, self._deep = self._graph("unet").run(feeds, ["out_sample", "deep_features"])
        return answer

    def _graph(self, part: str) -> Bound:
        """A graph with what stays the same over the steps."""
        if part not in self._bound:
            graph = self.model.graphs[part]
            own = {name: array[self._skipped :] for name, array in self.given.items() if name in graph.inputs}
            self._bound[part] = graph.bound(own)
        return self._bound[part]
