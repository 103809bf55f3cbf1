"""Break-A-Scene (Avrahami et al., SIGGRAPH Asia 2023): masked denoising of random unions of concepts, in two phases.

    L = || (eps - eps_theta) . M_s ||^2 + 0.01 * mean over the subset s of || CA(v_i) - M_i ||^2 + L_prior

First the tokens train alone at a high rate, then tokens and UNet together at a low one (its sections 3.1 to 3.3). The
paper's masks come from the user; here they may, or from the base model's attention. Its text encoder stays frozen here:
packs carry no text encoder.
"""

from __future__ import annotations

import random

from torch import Tensor

from ..learner import Batch, Learner, View, fade
from ..masks import at_side


class BreakAScene(Learner):
    """Union sampling, masked denoising, maps held to masks."""

    def trained_weights(self) -> list[str]:
        """All of the UNet, in the second phase."""
        return [name for name, _ in self.unet.named_parameters()]

    def rates(self, step: int) -> list[float]:
        """The tokens alone, then everything."""
        options, config = self.config.break_a_scene, self.config
        if step < options.token_share * config.steps:
            return [0.0, options.first_token_rate]
        token_rate = config.token_learning_rate or config.learning_rate
        return [rate * fade(step, config) for rate in (config.learning_rate, token_rate)]

    def view(self, step: int, rng: random.Random) -> View:
        """A random union of concepts: first how many, then which (union sampling, section 3.2)."""
        count = rng.randint(1, len(self.concepts))
        return View(tuple(sorted(rng.sample(range(len(self.concepts)), count))), with_masks=True)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise``, ``prior`` and ``attention``."""
        found, _ = self.positions(batch.captions, batch.named)
        prediction, target = self.predict(batch, found[:, :, 0])
        error = (prediction.float() - target.float()).square().mean(1)  # [B, h, w]
        maps = self.recorder.mean().float()
        maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-8)
        sums = {name: error.sum() * 0 for name in ("denoise", "prior", "attention")}
        for row, named in enumerate(batch.named):
            if not named:
                sums["prior"] = sums["prior"] + error[row].mean()
                continue
            assert batch.concept_masks is not None
            masks = batch.concept_masks[row, list(named)]
            union = batch.masks[row, 0] * at_side(masks.amax(0, keepdim=True), error.shape[-1])[0]
            sums["denoise"] = sums["denoise"] + self.config.loss_scale * (error[row] * union).mean()
            distance = (maps[row, list(named)] - at_side(masks, maps.shape[-1])).square().mean()
            sums["attention"] = sums["attention"] + distance
        parts = {name: value / len(batch.named) for name, value in sums.items()}
        weight = self.config.break_a_scene.attention_weight
        return {"loss": parts["denoise"] + parts["prior"] + weight * parts["attention"], **parts}
