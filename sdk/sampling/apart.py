"""Keeping the subjects of a prompt apart while it is drawn: first their places are driven apart, then they are kept.

In the first steps latents move so that the maps of the concepts' words differ (LODA, ConceptSplit, ICCV 2025): against
the gradient of relu(3 - HM), HM the harmonic mean over pairs of KL(P_i, P_j), which lets the worst pair rule. P_i is
the attention map of concept i's words, smoothed, made to sum to one. Then the places that they found bound attention
for the rest of the steps (:mod:`sdk.unet.regions`). Needs nothing of the fit, so every pack can be drawn so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..concepts import tokens_in
from ..errors import InputError
from ..families import TextStates
from ..model.positions import ConceptPositions
from ..model.schedules import guidance_condition
from ..unet.attention import AttentionProcessor, CachedKeyValueProcessor, MapRecorder, attention_processors
from ..unet.regions import RecordingKeyValueProcessor, RegionKeyValueProcessor, Regions, RegionSelfProcessor
from .requests import Request

ENOUGH = 3.0  # of divergence; maps that differ by more are left alone (ConceptSplit's tau)
STEP = 0.1  # by which latents move, of their own size (ours: ConceptSplit's step is for one model's gradients)
_LEAST = 1e-6
_LOUD = 256.0  # factor on the loss, so that float16 holds its gradient; latents move by its direction alone


def divergence(maps: Tensor) -> Tensor:
    """Harmonic mean over ordered pairs of KL(P_i, P_j), a scalar.

    Args:
        maps: of S concepts, not negative, ``[S, h, w]``.
    """
    blurred = F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), _smoothing().to(maps))[:, 0].flatten(1)
    shares = (blurred / blurred.sum(-1, keepdim=True).clamp(min=_LEAST)).clamp(min=_LEAST)
    logs = shares.log()
    pairs = (shares * logs).sum(-1)[:, None] - shares @ logs.T  # KL(P_i, P_j)
    apart = pairs[~torch.eye(len(maps), dtype=torch.bool, device=maps.device)]
    return len(apart) / (1 / apart.clamp(min=_LEAST)).sum()


def _smoothing() -> Tensor:
    """A Gaussian of sigma 0.5 on 3 x 3 cells, as the calibration loss has it."""
    line = torch.tensor([-1.0, 0.0, 1.0]).square().mul(-2).exp()
    kernel = line[:, None] * line[None]
    return (kernel / kernel.sum())[None, None]


def settled(maps: Tensor) -> Tensor:
    """Return where each concept is, bool ``[S, h, w]``: above half of its map's range, and its own most.

    Args:
        maps: ``[S, h, w]``.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).clamp(min=_LEAST)
    most = F.one_hot(scaled.argmax(0), len(maps)).permute(2, 0, 1).bool()
    return (scaled > 0.5) & most


class KeptApart:
    """What one batch needs to keep the subjects of its pictures apart.

    Args:
        sampler: draws the batch (:class:`sdk.sampling.sampler.Sampler`).
        requests: its pictures.
        text: states of their prompts, one row each.
        cached: K and V of the batch by layer, rows of negative prompts, if any, first.
        steps: how many of the first steps move latents.
        guidance_scale: for models that take it as a number.
        size: of the pictures, height and width in pixels.
    """

    def __init__(
        self,
        sampler: Any,
        requests: Sequence[Request],
        text: TextStates,
        cached: dict[str, CachedKeyValueProcessor],
        steps: int,
        guidance_scale: float,
        size: tuple[int, int],
    ) -> None:
        self.sampler, self.text, self.steps = sampler, text, steps
        placed = [self._places(request) for request in requests]
        self.counts = [len(places) for places in placed]
        flat = [torch.tensor([p for own in places for p in own], dtype=torch.int64) for places in placed]
        whose = [torch.tensor([i for i, own in enumerate(places) for _ in own], dtype=torch.int64) for places in placed]
        self.tracked, self.whose = (pad_sequence(each, batch_first=True, padding_value=-1) for each in (flat, whose))
        owner = torch.full((len(requests), text.states.shape[1]), -1)
        for row, (positions, concepts) in enumerate(zip(flat, whose, strict=True)):
            owner[row, positions] = concepts
        ahead = len(next(iter(cached.values())).key) - len(requests)  # rows of negative prompts
        nobody = torch.full((ahead, owner.shape[1]), -1)
        unet = sampler.unet
        if self.wanted and size[0] != size[1]:
            raise InputError("separate needs square pictures; give height and width alike, or separate=0")
        self.regions = Regions(torch.cat([nobody, owner]))
        self._ahead, self.recorder = ahead, MapRecorder()
        self.guidance = guidance_condition(unet, guidance_scale, unet.device)
        height, width = size
        self.sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(requests), dtype=torch.float32)
        recorded = set(sampler.family.map_layers(unet))
        with torch.inference_mode(False):  # copies of what a gradient may pass, wherever the call is made
            own = {name: (each.key[ahead:].clone(), each.value[ahead:].clone()) for name, each in cached.items()}
        self._recording = {
            name: RecordingKeyValueProcessor(*pair, self.recorder)
            if name in recorded
            else CachedKeyValueProcessor(*pair)
            for name, pair in own.items()
        }
        self._bounded: dict[str, Any] = {
            name: RegionKeyValueProcessor(each.key, each.value, self.regions) for name, each in cached.items()
        }

    def processors(self) -> dict[str, Any]:
        """Return processors that keep to regions once there are any; self-attentions that a user changed stay."""
        inner = [
            name
            for name, module in self.sampler.unet.named_modules()
            if isinstance(module, Attention)
            and not name.endswith("attn2")
            and type(module.processor) in (AttnProcessor2_0, AttentionProcessor)
        ]
        return {name: RegionSelfProcessor(self.regions) for name in inner} | self._bounded

    @property
    def wanted(self) -> bool:
        """Whether any picture shows two concepts."""
        return max(self.counts, default=0) > 1

    def after_step(self, pipe: Any, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Move the latents that the next step begins with; after the last move, settle the regions.

        Args:
            pipe: the pipeline.
            step: that ended, counted from 0.
            values: with ``latents``.
        """
        if step >= self.steps or step + 1 >= len(pipe.scheduler.timesteps):
            return values
        latents = values["latents"]
        with torch.inference_mode(False), torch.enable_grad():
            moving = latents.detach().clone().requires_grad_()
            maps = self._maps(pipe, moving, pipe.scheduler.timesteps[step + 1])
            short = [
                F.relu(ENOUGH - divergence(own)) if len(own) > 1 else own.sum() * 0
                for own in (each[:count] for each, count in zip(maps, self.counts, strict=True))
            ]
            (gradient,) = torch.autograd.grad(_LOUD * torch.stack(short).sum(), moving)
        if step + 1 == self.steps:
            self._settle(maps.detach())
        exact, slope = latents.float(), gradient.float()  # float16 holds no squares of small gradients
        size, steepness = (each.square().mean((1, 2, 3), keepdim=True).sqrt() for each in (exact, slope))
        move = torch.where(steepness > 0, STEP * size * slope / steepness.clamp(min=1e-30), 0.0)
        return values | {"latents": (exact - move).to(latents.dtype)}

    def _maps(self, pipe: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """Maps of the concepts' words ``[B, S, h, w]``, zero for concepts that a prompt does not name."""
        unet = self.sampler.unet
        whose = self.whose.to(latents.device)
        self.recorder.start(self.tracked.clone().to(latents.device))  # a copy, that a gradient may pass
        more = self.sampler.family.unet_arguments(self.text, self.sizes.to(latents.device))
        with attention_processors(unet, self._recording):
            scaled = pipe.scheduler.scale_model_input(latents, timestep)
            guidance = None if self.guidance is None else self.guidance.to(latents.dtype)
            unet(scaled, timestep, self.text.states, timestep_cond=guidance, **more)
        maps = self.recorder.mean().float()  # [B, K, h, w]
        self.recorder.start(None)
        owned = F.one_hot(whose.clamp(min=0), max(self.counts)) * (whose >= 0)[..., None]  # [B, K, S]
        return torch.einsum("bkhw,bks->bshw", maps, owned.to(maps))

    def _settle(self, maps: Tensor) -> None:
        places = torch.zeros(self._ahead + len(maps), *maps.shape[1:], dtype=torch.bool, device=maps.device)
        for row, (own, count) in enumerate(zip(maps, self.counts, strict=True)):
            if count > 1:
                places[self._ahead + row, :count] = settled(own[:count])
        self.regions.settle(places)

    def _places(self, request: Request) -> list[list[int]]:
        """Positions of the words of each concept that a prompt names, in the pack's order."""
        if request.pack is None:
            return []
        concepts, written = request.pack.concepts, tokens_in(request.prompt)
        named = tuple(i for i, concept in enumerate(concepts) if concept.token in written)
        found = ConceptPositions(self.sampler.conditioner(request.pack), concepts).find([request.prompt], [named])[0]
        return [found[i][found[i] >= 0].tolist() for i in named]
