"""Drawing pictures with packs: K and V once per prompt, a different pack per row, the base model untouched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from .attention import CachedKeyValueProcessor, attention_processors, cross_attention_layers, plain_processors
from .concepts import check_tokens, find_positions
from .images import to_tensor
from .pack import ConceptPack
from .requests import Request
from .routing import RoutedPack, token_owners
from .text import TextConditioner
from .weights import replaced_weights

Segments = list[tuple[slice | list[int], ConceptPack | None]]


@dataclass(frozen=True)
class Repaint:
    """A picture of which a part is redrawn.

    Attributes:
        latents: clean latents of the picture, ``[1, C, h, w]``.
        mask: ``[1, 1, h, w]``, 1 where it is redrawn.
    """

    latents: Tensor
    mask: Tensor


class Sampler:
    """Draws batches of requests with one pipeline.

    Args:
        pipe: the base model; nothing in it is changed.
        scheduler: DDIM on the model's noise schedule.
    """

    def __init__(self, pipe: StableDiffusionPipeline, scheduler: DDIMScheduler):
        self.pipe, self.scheduler = pipe, scheduler
        self.layers = cross_attention_layers(pipe.unet)
        self._conditioners: dict[tuple[str, ...], TextConditioner] = {}

    def draw(
        self,
        requests: Sequence[Request],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float,
        height: int | None,
        width: int | None,
        generators: list[torch.Generator] | None = None,
        callback_on_step_end: Callable | None = None,
        repaint: Repaint | None = None,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Draw one picture per request, in one batch; packs with UNet weights of their own cannot share it with others.

        Each picture's noise comes from its own generator on the CPU, so it does not depend on the batch it is in.
        """
        guided = guidance_scale > 1
        wanted = [(r.pack, r.negative_prompt) for r in requests] if guided else []
        wanted += [(r.pack, r.prompt) for r in requests]
        states, processors = self._condition(wanted)
        positive = states[-len(requests) :]
        generators = generators or [torch.Generator().manual_seed(r.seed) for r in requests]
        pipe = self._pipeline()
        pipe.set_progress_bar_config(disable=not progress, leave=False)
        noise_at_start = None if repaint is None else self._noise(repaint, generators)
        with (
            attention_processors(pipe.unet, plain_processors(pipe.unet) | processors),
            replaced_weights(pipe.unet, self._learned_weights(requests)),
        ):
            result = pipe(
                prompt_embeds=positive,
                negative_prompt_embeds=states[: len(requests)] if guided else None,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                eta=eta,
                height=height,
                width=width,
                generator=generators,
                callback_on_step_end=_blending(callback_on_step_end, repaint, noise_at_start),
            )
        return result.images

    def _learned_weights(self, requests: Sequence[Request]) -> dict[str, nn.Parameter]:
        """UNet weights beyond K and V, of the one pack that is in this batch."""
        pack = requests[0].pack
        if pack is None:
            return {}
        unet = self.pipe.unet
        return {name: nn.Parameter(w.to(unet.device, unet.dtype), requires_grad=False) for name, w in pack.unet.items()}

    def _pipeline(self) -> StableDiffusionPipeline:
        parts = dict(self.pipe.components) | {"scheduler": self.scheduler}
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)

    def _noise(self, repaint: Repaint, generators: list[torch.Generator]) -> Tensor:
        shape = repaint.latents.shape[1:]
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(g.initial_seed() + 1)) for g in generators]
        return torch.stack(drawn).to(repaint.latents)

    @torch.no_grad()
    def _condition(
        self, wanted: Sequence[tuple[ConceptPack | None, str]]
    ) -> tuple[Tensor, dict[str, CachedKeyValueProcessor]]:
        """Encode prompts under their packs and project them to K and V: once per distinct prompt, for all steps.

        Returns:
            Text states ``[B, T, C]``, one row per item of ``wanted``, and processors that hold the projections.
        """
        distinct: dict[tuple[int, str], int] = {}
        segments: list[Segments] = []
        encoded: list[Tensor] = []
        for pack, prompt in wanted:
            if (id(pack), prompt) not in distinct:
                distinct[id(pack), prompt] = len(distinct)
                segments.append(self._segments(pack, prompt))
                encoded.append(self._encode(pack, prompt))
        rows = torch.tensor([distinct[id(pack), prompt] for pack, prompt in wanted], device=self.pipe.unet.device)
        processors = {}
        for name, layer in self.layers.items():
            key, value = (
                torch.stack([_project(m, state, s, name, i) for state, s in zip(encoded, segments, strict=True)])[rows]
                for i, m in enumerate((layer.to_k, layer.to_v))
            )
            processors[name] = CachedKeyValueProcessor(key, value)
        return torch.stack(encoded)[rows], processors

    def _segments(self, pack: ConceptPack | None, prompt: str) -> Segments:
        """Whose K and V which tokens of a prompt get; later segments overrule earlier ones."""
        if not isinstance(pack, RoutedPack):
            return [(slice(None), pack)]
        owned = token_owners(pack, self.conditioner(pack), prompt)
        return [(slice(None), None), *zip(owned, pack.parts, strict=True)]

    def _encode(self, pack: ConceptPack | None, prompt: str) -> Tensor:
        """Return the text states ``[T, C]`` of a prompt under a pack."""
        conditioner = self.conditioner(pack)
        rows = pack.embeddings.float() if pack is not None else None
        return conditioner.encode(conditioner.tokenize([prompt]), rows)[0].to(
            self.pipe.unet.device, self.pipe.unet.dtype
        )

    def conditioner(self, pack: ConceptPack | None) -> TextConditioner:
        """Return the tokenizer and text encoder extended by a pack's tokens; one per set of tokens is kept."""
        tokens = tuple(pack.tokens) if pack is not None else ()
        if tokens not in self._conditioners:
            self._conditioners[tokens] = TextConditioner(self.pipe.tokenizer, self.pipe.text_encoder, tokens)
        return self._conditioners[tokens]

    def check_prompt(self, prompt: str, pack: ConceptPack | None) -> str | None:
        """Check a prompt against the pack it is meant with.

        Returns:
            A note worth telling the user, or ``None``.

        Raises:
            InputError: empty, an unknown token, or a learned token without its class noun.
        """
        concepts = pack.concepts if pack is not None else []
        written = check_tokens(prompt, concepts, "concepts")
        conditioner = self.conditioner(pack)
        ids = conditioner.tokenize([prompt])[0].tolist()
        for slot, concept in enumerate(concepts):
            if concept.token in written:
                modifier = conditioner.table_size + slot
                find_positions(ids, modifier, conditioner.pieces(concept.noun), phrase=concept.phrase)
        if conditioner.truncated(prompt):
            return f"the prompt is longer than {conditioner.tokenizer.model_max_length} tokens; its end is not read"
        if concepts and not written:
            names = " or ".join(c.phrase for c in concepts)
            return f"the prompt names no learned token; write {names} to draw what was learned"
        return None


def _project(module: Any, states: Tensor, segments: Segments, name: str, which: int) -> Tensor:
    """Project the text states ``[T, C]`` of a prompt by each segment's own K (``which`` 0) or V (1)."""
    out = torch.empty(len(states), module.out_features, dtype=states.dtype, device=states.device)
    for where, pack in segments:
        rows = states[where]
        if pack is None or name not in pack.key_value:
            out[where] = module(rows)
            continue
        learned = F.linear(rows, pack.key_value[name][which].to(rows))
        base = getattr(module, "base_layer", None)
        # A LoRA on this very projection adds to the pack's weights instead of being hidden by them.
        out[where] = learned if base is None else learned + (module(rows) - base(rows))
    return out


def _blending(callback: Callable | None, repaint: Repaint | None, noise: Tensor | None) -> Callable | None:
    """After each step put the kept part of the picture back, at the noise level of the next step."""
    if repaint is None:
        return callback

    def blend(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if callback is not None:
            values = callback(pipe, step, timestep, values) or values
        later = pipe.scheduler.timesteps[step + 1 : step + 2]
        kept = repaint.latents.expand_as(values["latents"])
        if len(later):
            kept = pipe.scheduler.add_noise(kept, noise, later.expand(len(kept)))
        mask = repaint.mask.to(values["latents"])
        values["latents"] = mask * values["latents"] + (1 - mask) * kept.to(values["latents"])
        return values

    return blend


@torch.no_grad()
def prepare_repaint(pipe: StableDiffusionPipeline, image: Image.Image, mask: Image.Image) -> Repaint:
    """Encode a picture and reduce its mask to the latents' size (a cell is redrawn if any of its pixels is)."""
    latents = pipe.vae.encode(to_tensor(image)[None].to(pipe.device, pipe.vae.dtype)).latent_dist.mode()
    hole = (to_tensor(mask.convert("RGB"))[:1] > 0).float()[None]
    hole = F.adaptive_max_pool2d(hole, latents.shape[-2:])
    return Repaint(latents * pipe.vae.config.scaling_factor, hole.to(latents))
