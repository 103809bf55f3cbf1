"""Break-A-Scene (Avrahami et al., SIGGRAPH Asia 2023): masked denoising of random unions of concepts, in two phases.

    L = || (eps - eps_theta) . M_s ||^2 + 0.01 * mean over the subset s of || CA(v_i) - M_i ||^2 + L_prior

First the tokens train alone at a high rate, then tokens and UNet together at a low one (its sections 3.1 to 3.3). The
paper's masks come from the user; here they may, or from the base model's attention. Its text encoder stays frozen here:
packs carry no text encoder.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from torch import Tensor

from ..data.batch import Batch, View
from ..errors import InputError
from ..masks.segmentation import at_side
from ..plain import setting
from ..settings import MethodOptions
from .base import PLAIN_PICTURES, Method, fade


@dataclass(frozen=True, kw_only=True)
class BreakASceneOptions(MethodOptions):
    """Settings of Break-A-Scene alone."""

    token_share: float = setting(
        0.5, "share of the steps, at the start, in which the tokens alone train (paper: 400 of 800)"
    )
    first_token_rate: float = setting(5e-4, "learning rate of the tokens in it (paper: 5e-4)")
    attention_weight: float = setting(0.01, "of the squared distance between maps and masks (paper: 0.01)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.token_share < 1:
            raise InputError(f"break_a_scene.token_share must lie between 0 and 1, got {self.token_share}")
        if self.first_token_rate <= 0:
            raise InputError(f"break_a_scene.first_token_rate must be greater than 0, got {self.first_token_rate}")
        if self.attention_weight < 0:
            raise InputError(f"break_a_scene.attention_weight must not be negative, got {self.attention_weight}")


class BreakAScene(Method):
    """Union sampling, masked denoising, maps held to masks."""

    Options = BreakASceneOptions
    # Avrahami et al., section 4: twice 400 steps; the second phase's rate is 2e-6.
    presets = {
        "reference": {
            **PLAIN_PICTURES,
            "steps": 800,
            "learning_rate": 2e-6,
            "token_learning_rate": 2e-6,
            "batch_size": 2,
        }
    }
    whole_unet = True
    unused = frozenset({"alone", "kv_rank"})  # union sampling decides what a row shows

    def trained_weights(self) -> list[str]:
        """All of the UNet, in the second phase."""
        return [name for name, _ in self.unet.named_parameters()]

    def rates(self, step: int) -> list[float]:
        """The tokens alone, then everything."""
        options, settings = self.options, self.settings
        if step < options.token_share * settings.steps:
            return [0.0, options.first_token_rate]
        token_rate = settings.token_learning_rate or settings.learning_rate
        return [rate * fade(step, settings) for rate in (settings.learning_rate, token_rate)]

    def view(self, step: int, rng: random.Random) -> View:
        """A random union of concepts: first how many, then which (union sampling, section 3.2)."""
        count = rng.randint(1, len(self.concepts))
        return View(tuple(sorted(rng.sample(range(len(self.concepts)), count))), with_masks=True)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise``, ``prior`` and ``attention``."""
        found = self.positions.find(batch.captions, batch.named)
        prediction, target = self.predict(batch, found[:, :, 0])
        error = (prediction.float() - target.float()).square().mean(1)  # [B, h, w]
        maps = self.denoiser.recorder.mean().float()
        maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-8)
        sums = {name: error.sum() * 0 for name in ("denoise", "prior", "attention")}
        for row, named in enumerate(batch.named):
            if not named:
                sums["prior"] = sums["prior"] + error[row].mean()
                continue
            assert batch.concept_masks is not None
            masks = batch.concept_masks[row, list(named)]
            union = batch.masks[row, 0] * at_side(masks.amax(0, keepdim=True), error.shape[-1])[0]
            sums["denoise"] = sums["denoise"] + self.settings.loss_scale * (error[row] * union).mean()
            distance = (maps[row, list(named)] - at_side(masks, maps.shape[-1])).square().mean()
            sums["attention"] = sums["attention"] + distance
        parts = {name: value / batch.rows for name, value in sums.items()}
        weight = self.options.attention_weight
        return {"loss": parts["denoise"] + parts["prior"] + weight * parts["attention"], **parts}
