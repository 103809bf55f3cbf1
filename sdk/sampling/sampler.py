"""Drawing: prompts and packs to pictures.

Text states are projected to K and V beforehand, once per distinct prompt and pack, so rows of one batch may belong to
different packs and a step costs what it costs without packs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..combine.routing import RoutedPack, token_owners
from ..concepts import check_tokens, find_positions
from ..drawing_rules import prompt_note, skipped_steps
from ..model.attention import CachedKeyValueProcessor, attention_processors, plain_processors
from ..model.base_model import BaseModel
from ..model.layers import cross_attention_layers
from ..model.text import TextConditioner
from ..model.weights import replaced_weights
from ..pack import ConceptPack
from ..runtime import Event, Progress, check_cancelled
from .from_picture import LastSteps, Start, blending, noise_beside
from .requests import Request

Segments = list[tuple[slice | list[int], ConceptPack | None]]


class Sampler:
    """Draws batches of requests with one pipeline.

    Args:
        base: the base model; nothing in it is changed.
    """

    def __init__(self, base: BaseModel):
        self.pipe = base.pipe
        self.scheduler = LastSteps.from_config(base.sampling_scheduler().config)
        self.layers = cross_attention_layers(base.pipe.unet)
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
        start: Start | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> list[Image.Image]:
        """Draw one picture per request, in one batch; packs with UNet weights of their own cannot share it with others.

        Each picture's noise comes from its own generator on the CPU, so it does not depend on the batch it is in.
        """
        check_cancelled(cancel)
        guided = guidance_scale > 1
        wanted = [(r.pack, r.negative_prompt) for r in requests] if guided else []
        wanted += [(r.pack, r.prompt) for r in requests]
        states, processors = self._condition(wanted)
        generators = generators or [torch.Generator().manual_seed(r.seed) for r in requests]
        skipped = 0 if start is None else skipped_steps(num_inference_steps, start.strength)
        pipe = self._pipeline(skipped)
        latents = self._noised(start, generators, num_inference_steps) if start is not None and skipped else None
        blend = None if start is None or start.hole is None else blending(start, noise_beside(start, generators))

        def after_step(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if callback_on_step_end is not None:
                values = values | (callback_on_step_end(pipe, step, timestep, values) or {})
            if blend is not None:
                values = blend(pipe, step, timestep, values)
            done, steps = step + 1, num_inference_steps - skipped
            if progress is not None:
                progress(Event("draw", done, steps))
            if done < steps:
                check_cancelled(cancel)
            return values

        with (
            attention_processors(pipe.unet, plain_processors(pipe.unet) | processors),
            replaced_weights(pipe.unet, self._learned_weights(requests)),
        ):
            result = pipe(
                prompt_embeds=states[-len(requests) :],
                negative_prompt_embeds=states[: len(requests)] if guided else None,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                eta=eta,
                height=height,
                width=width,
                generator=generators,
                latents=latents,
                callback_on_step_end=after_step,
            )
        return result.images

    def _learned_weights(self, requests: Sequence[Request]) -> dict[str, nn.Parameter]:
        """UNet weights beyond K and V, of the one pack that is in this batch."""
        pack = requests[0].pack
        if pack is None:
            return {}
        unet = self.pipe.unet
        return {name: nn.Parameter(w.to(unet.device, unet.dtype), requires_grad=False) for name, w in pack.unet.items()}

    def _pipeline(self, skipped: int) -> StableDiffusionPipeline:
        self.scheduler.skipped = skipped
        parts = dict(self.pipe.components) | {"scheduler": self.scheduler}
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _noised(self, start: Start, generators: list[torch.Generator], steps: int) -> Tensor:
        """The picture at the noise level of the first step that is done, ``[B, C, h, w]``."""
        self.scheduler.set_timesteps(steps)
        shape, device = start.clean.shape, self.pipe.unet.device
        noise = torch.cat([torch.randn(shape, generator=g, device=g.device).to(device) for g in generators])
        clean = start.clean.expand(len(generators), -1, -1, -1).to(device, self.pipe.unet.dtype)
        level = self.scheduler.timesteps[:1].expand(len(generators))
        return self.scheduler.add_noise(clean, noise.to(clean), level.to(clean.device))

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
        longest = conditioner.tokenizer.model_max_length
        return prompt_note(concepts, written, longest, truncated=conditioner.truncated(prompt))


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
