"""AttenCraft (arXiv 2405.17965): masks out of attention, a concept at a time, maps held to the masks.

    L = L_inst + L_prior + L_attn
    L_inst: squared error times the squared mask of the concepts that the row names
    L_attn: mean over their modifiers and the start token of JS(softmax(map), softmax(mask))

The start token's mask is the background.

Of the released code's defects three are mended in every preset: every token trains (there only the first does), there
may be any number of concepts, and any base model. Its masks, sampling and losses are kept, see
:class:`AttenCraftOptions`. The paper's sampling by attention is not published as a formula; ours is
:func:`sampling_shares`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batch import Batch, View
from ..errors import InputError
from ..masks.segmentation import at_side, rescaled, resized, usable
from ..masks.similarity import js_divergence, ssim
from ..plain import setting
from ..settings import MethodOptions
from .base import PLAIN_PICTURES, Method

SAMPLINGS = ("uniform", "attention")
_LARGEST_SHARE = 0.8  # of the rows that show one concept, however weakly it is attended to


@dataclass(frozen=True, kw_only=True)
class AttenCraftOptions(MethodOptions):
    """Settings of AttenCraft alone; defaults as in the released code. How it makes masks is in ``masks``."""

    refresh_every: int = setting(
        20, "steps between attempts to renew the masks, in a row that names all concepts; 0 for none"
    )
    refresh_noise: int = setting(1000, "these masks are taken at timesteps below it, of 1000 (code: any)")
    refresh_similarity: float = setting(
        0.8, "structural similarity with the present masks below which new ones are refused"
    )
    masked: bool = setting(True, "the denoising loss counts on the named concepts alone")
    area_normalised: bool = setting(
        False, "divide it by the masks' area, not the picture's, so that small concepts learn as fast (ours)"
    )
    attention_weight: float = setting(1.0, "of the divergence between maps and masks; 0 leaves it out")
    sampling: str = setting(
        "uniform",
        "'uniform': each concept alone and all together are equally likely; 'attention': a concept that gets less "
        "attention inside its mask is shown alone more often (the paper announces it, the formula is ours)",
    )
    together: float = setting(1 / 3, "probability of naming all concepts")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("refresh_every", "attention_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"attencraft.{name} must not be negative, got {getattr(self, name)}")
        if not 1 <= self.refresh_noise <= 1000:
            raise InputError(f"attencraft.refresh_noise must lie between 1 and 1000, got {self.refresh_noise}")
        if not 0 <= self.together <= 1:
            raise InputError(f"attencraft.together is a share and must lie between 0 and 1, got {self.together}")
        if self.sampling not in SAMPLINGS:
            raise InputError(f"attencraft.sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")


class AttenCraft(Method):
    """Masked denoising of the named concepts, and a divergence that holds their maps to their masks."""

    Options = AttenCraftOptions
    presets = {
        # One picture and one prior a step, effective rate 1e-4, 500 steps, one concept-free prior prompt.
        "reference": {
            **PLAIN_PICTURES,
            "steps": 500,
            "learning_rate": 1e-4,
            "batch_size": 2,
            "loss_scale": 4.0,
            "swap_order": 0.5,
            "prior_prompts": ("a photo at the beach",),
            "masks": {"power": 4, "margin": 0.1, "background": 0.0, "draws": 1, "noise": 300},
        },
        "paper": {"attencraft": {"sampling": "attention"}},
        # Our masks, none renewed at random timesteps, small concepts as loud as large ones.
        "best": {
            "masks": {"power": 1, "margin": 0.05, "background": 0.3, "draws": 4, "noise": 250},
            "attencraft": {"refresh_noise": 250, "area_normalised": True, "sampling": "attention"},
        },
    }
    # Its own sampling says how often a concept is shown alone, its own masks where the loss counts.
    unused = frozenset({"alone", "outside_noise"})

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.scores: Tensor | None = None  # [S], mean attention to each concept inside its mask

    def view(self, step: int, rng: random.Random) -> View:
        """Name one concept or all of them; all in steps that renew the masks."""
        everything = tuple(range(len(self.concepts)))
        renewing = self.options.refresh_every and step % self.options.refresh_every == 0
        if len(everything) == 1 or renewing or rng.random() < self.options.together:
            return View(everything, with_masks=True)
        shares = sampling_shares(self.scores) if self.options.sampling == "attention" else None
        return View((rng.choices(everything, None if shares is None else shares.tolist())[0],), with_masks=True)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise``, ``prior`` and ``attention``."""
        found = self.positions.find(batch.captions, batch.named)
        start = torch.tensor([0 if named else -1 for named in batch.named])
        tracked = torch.cat([found[:, :, 0], start[:, None]], 1)
        prediction, target = self.predict(batch, tracked)
        error = (prediction.float() - target.float()).square().mean(1)  # [B, h, w]
        attention = (
            self._attention(batch) if self.options.attention_weight and batch.concept_masks is not None else None
        )
        denoise, prior, divergence = [], [], []
        for row, named in enumerate(batch.named):
            if not named:
                prior.append(error[row].mean())
                continue
            denoise.append(self.settings.loss_scale * self._masked(error[row], batch, row))
            if attention is not None:
                divergence.append(attention[row, [*named, -1]].mean())
        zero = error.sum() * 0
        parts = {
            "denoise": sum(denoise, zero),
            "prior": sum(prior, zero),
            "attention": sum(divergence, zero),
        }
        parts = {name: value / batch.rows for name, value in parts.items()}
        weight = self.options.attention_weight
        return {"loss": parts["denoise"] + parts["prior"] + weight * parts["attention"], **parts}

    def use_masks(self, masks: Sequence[Tensor], pictures: list[Tensor]) -> None:
        """Take masks, at the maps' resolution, and score how much attention each concept gets inside its own."""
        how = self.settings.masks
        _, maps = self.probe.masks_at(pictures[0], [how.noise // 2], self.probe.noun_embeddings(), how)
        super().use_masks([at_side(m, maps.shape[-1]) for m in masks], pictures)
        own = self.masks[0][:-1].to(maps)
        self.scores = ((own * maps[:-1]).sum((1, 2)) / own.sum((1, 2)).clamp(min=1)).cpu()

    def before_step(self, step: int) -> None:
        """Every few steps try new masks from the present weights; keep them if they resemble the old ones."""
        options = self.options
        if not options.refresh_every or step % options.refresh_every:
            return
        for index, latents in enumerate(self.pictures):
            timestep = random.Random(f"renew {step} {index}").randrange(options.refresh_noise)
            masks, _ = self.probe.masks_at(latents, [timestep], self.embeddings, self.settings.masks)
            masks, old = masks.cpu(), self.masks[index]
            if masks.shape != old.shape or not usable(masks[:-1]):
                continue
            if (ssim(masks[:-1], old[:-1]) >= options.refresh_similarity).all():
                self.masks[index] = masks

    def _masked(self, error: Tensor, batch: Batch, row: int) -> Tensor:
        """Squared error ``[h, w]`` of one row under its mask."""
        valid = batch.masks[row, 0]
        if not self.options.masked or batch.concept_masks is None:
            return (error * valid).sum() / valid.sum().clamp(min=1)
        union = batch.concept_masks[row, list(batch.named[row])].amax(0, keepdim=True)
        weight = resized(union, error.shape[-1])[0].square() * valid
        return (error * weight).sum() / (weight if self.options.area_normalised else valid).sum().clamp(min=1)

    def _attention(self, batch: Batch) -> Tensor:
        """Divergence ``[B, S + 1]`` of the recorded maps from the masks, the start token's from the background last."""
        masks = batch.concept_masks
        assert masks is not None
        maps = self.denoiser.recorder.mean().float()
        scaled = rescaled(torch.stack([resized(rows, masks.shape[-1]) for rows in maps]))
        return js_divergence(scaled, masks)


def sampling_shares(scores: Tensor | None) -> Tensor:
    """Return how often each concept is shown alone, from the attention it gets; sums to one.

    Inversely proportional to the attention inside its mask, none above 0.8: what is hardly attended to is shown more.

    Args:
        scores: mean attention to each concept inside its mask, ``[S]``.
    """
    assert scores is not None
    shares = 1 / scores.clamp(min=1e-4)
    shares = shares / shares.sum()
    largest = int(shares.argmax())
    if len(shares) > 1 and shares[largest] > _LARGEST_SHARE:
        shares *= (1 - _LARGEST_SHARE) / (1 - shares[largest])  # the others' proportions stay
        shares[largest] = _LARGEST_SHARE
    return shares
