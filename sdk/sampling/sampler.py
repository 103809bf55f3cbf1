"""Drawing: prompts and packs to pictures.

Text states are projected to K and V beforehand, once per distinct prompt and pack, so rows of one batch may belong to
different packs and a step costs what it costs without packs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..combine.routing import RoutedPack, token_owners
from ..concepts import Concept, check_tokens, find_positions
from ..errors import InputError, NotFiniteError
from ..families import TextStates
from ..families.layers import cross_attention_layers
from ..families.states import joined
from ..finite import is_finite
from ..model.base_model import BaseModel
from ..model.latents import PLAIN, Coding, decoded
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..rules.drawing import prompt_note, skipped_steps
from ..rules.prompts import check_negative, negative_note, word_notes
from ..rules.speed import EXACT, Speed
from ..runtime import Phase
from ..unet.attention import CachedKeyValueProcessor, attention_processors, plain_processors
from ..unet.inpainting import told
from ..unet.matrices import LowRank, converted, projected
from ..unet.shortcuts import shortened
from ..unet.weights import replaced_weights
from ..views import private_views, undisturbed
from .apart import KeptApart
from .callbacks import checked_answer
from .from_picture import Start, blending, noise_beside
from .requests import Request
from .schedulers import LastSteps, noised

Wanted = Sequence[tuple[ConceptPack | None, str]]
Segments = list[tuple[slice | list[int], ConceptPack | None]]
_MUCH_GUIDANCE = 30


class Sampler:
    """Draws batches of requests: what one call needs of a base model, as the model was when the call began.

    The UNet and the text encoder are views (:mod:`sdk.views`) and the scheduler a copy, so calls do not meet.

    Args:
        base: the base model; nothing in it is changed.
        clip_skip: last layers of the text encoders that are left out; ``None``: as the packs were fitted.
        scheduler: what the call asks for, see :meth:`sdk.model.BaseModel.drawing_scheduler`.
        speed: of the call.

    Attributes:
        scheduler: see :meth:`sdk.model.BaseModel.drawing_scheduler`.
        layers: the cross-attentions by name.
    """

    def __init__(self, base: BaseModel, clip_skip: int | None = None, scheduler: Any = None, speed: Speed = EXACT):
        self.clip_skip, self.speed = clip_skip, speed
        self.base, self.pipe, self.family = base, base.pipe, base.family
        own = base.text_parts
        self.unet, *encoders = private_views(base.pipe.unet, *(part.encoder for part in own))
        self.text_parts = [replace(part, encoder=view) for part, view in zip(own, encoders, strict=True)]
        self.scheduler = base.drawing_scheduler(scheduler, speed.scheduler)
        self.layers = cross_attention_layers(self.unet)
        self._conditioners: dict[tuple[tuple[str, ...], int], TextConditioner] = {}

    def steps(self, num_inference_steps: int, strength: float = 1.0) -> int:
        """Return how many steps a batch takes, which some schedulers answer in their own way."""
        scheduler = self._scheduler(num_inference_steps, strength)
        try:
            scheduler.set_timesteps(num_inference_steps)
        except ValueError as error:  # LCM's takes at most those that it was distilled from, each at most its levels
            kind = type(self.scheduler).__name__
            raise InputError(
                f"{kind} cannot take {num_inference_steps} steps; give fewer num_inference_steps"
            ) from error
        if float(scheduler.timesteps[0]) >= self._levels:  # multistep solvers leave out one that they count
            most = self._levels - 2
            raise InputError(
                f"num_inference_steps may be at most {most} with this scheduler, got {num_inference_steps}"
            )
        return len(scheduler.timesteps)

    @property
    def _levels(self) -> int:
        """Of noise, in all."""
        return int(self.scheduler.config.get("num_train_timesteps", 1000))

    def draw(self, requests: Sequence[Request], **arguments: Any) -> list[Image.Image]:
        """Draw one picture per request, in one batch; see :meth:`_draw`, whose arguments it takes."""
        with undisturbed(self.unet, *(part.encoder for part in self.text_parts)):
            return self._draw(requests, **arguments)

    def _draw(
        self,
        requests: Sequence[Request],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        guidance_rescale: float = 0.0,
        eta: float,
        height: int,
        width: int,
        phase: Phase,
        generators: list[torch.Generator] | None = None,
        start: Start | None = None,
        coding: Coding = PLAIN,
        separate: float = 0.0,
        callback_on_step_end: Callable | None = None,
    ) -> list[Image.Image]:
        """Draw one picture per request, in one batch; packs with UNet weights of their own cannot share it with others.

        Each picture's noise comes from its own generator on the CPU, so it does not depend on the batch it is in.

        Args:
            requests: the pictures.
            num_inference_steps: of the sampler.
            guidance_scale: classifier-free guidance, up to 1 none at all.
            guidance_rescale: see :meth:`sdk.Personalizer.generate`.
            eta: share of fresh noise in each step, where the scheduler has that.
            height: of the pictures, pixels.
            width: likewise.
            phase: the whole call's: steps count on from batch to batch.
            generators: one per request, instead of its seed.
            start: where drawing starts from a picture.
            coding: how pictures are decoded.
            separate: share of the steps, at the start, in which the subjects of a prompt are driven apart.
            callback_on_step_end: diffusers', its step that of the whole call.

        Raises:
            NotFiniteError: text states, latents or pixels hold NaN or infinite values.
            Cancelled: the phase's ``cancel`` was set.
        """
        guided = guidance_scale > 1 and not self.base.takes_guidance
        wanted = [(r.pack, r.negative_prompt) for r in requests] if guided else []
        wanted += [(r.pack, r.prompt) for r in requests]
        text, processors = self._condition(wanted)
        generators = generators or [torch.Generator().manual_seed(r.seed) for r in requests]
        pipe = self._pipeline(num_inference_steps, 1.0 if start is None else start.strength)
        latents = None
        behind = self.base.condition((height, width), None if start is None else start.given)
        if start is not None and isinstance(pipe.scheduler, LastSteps):
            pipe.scheduler.set_timesteps(num_inference_steps)
            latents = noised(pipe.scheduler, start.clean.to(self.unet.device, self.unet.dtype), generators)
        elif behind is not None:  # the pipeline would make noise for all channels of the UNet
            shape = (self.pipe.vae.config.latent_channels, *behind.shape[-2:])
            drawn = [torch.randn((1, *shape), generator=g, device=g.device, dtype=self.unet.dtype) for g in generators]
            latents = torch.cat([each.to(self.unet.device) for each in drawn])
        blend = None
        if start is not None and start.hole is not None and behind is None:
            blend = blending(start, noise_beside(start, generators))
        kept = None
        if separate > 0:
            moved = max(1, round(separate * num_inference_steps))
            kept = KeptApart(self, requests, text[-len(requests) :], processors, moved, guidance_scale, (height, width))
            if kept.wanted:
                processors = kept.processors()
        before = phase.count

        def after_step(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if callback_on_step_end is not None:
                answer = callback_on_step_end(pipe, before + step, timestep, dict(values))
                values = values | checked_answer(answer, values["latents"])
            if blend is not None:
                values = blend(pipe, step, timestep, values)
            if kept is not None and kept.wanted:
                values = kept.after_step(pipe, step, values)
            phase.step()
            return values

        with (
            attention_processors(self.unet, plain_processors(self.unet) | processors),
            replaced_weights(self.unet, self._learned_weights(requests)),
            shortened(self.unet, self.speed, guided, self._levels) as pipe.unet,
            told(self.unet, behind),
        ):
            drawn = pipe(
                **self.family.drawing_arguments(text[-len(requests) :], text[: len(requests)] if guided else None),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                guidance_rescale=guidance_rescale if guided else 0.0,
                eta=eta,
                height=height,
                width=width,
                generator=generators,
                latents=latents,
                output_type="latent",
                callback_on_step_end=after_step,
            ).images
        if not is_finite(drawn):
            raise NotFiniteError(self._not_finite("the latents", wanted, guidance_scale))
        return self._pictures(pipe, drawn, coding)

    def _pictures(self, pipe: Any, latents: Tensor, coding: Coding) -> list[Image.Image]:
        """Decode latents as diffusers' pipeline does, after a look at what the decoder made."""
        images = decoded(pipe.vae, latents, coding)
        images, flagged = self.family.safe(pipe, images, self.unet.device, self.unet.dtype)
        shown = [True] * len(images) if flagged is None else [not each for each in flagged]
        return pipe.image_processor.postprocess(images, output_type="pil", do_denormalize=shown)

    def _not_finite(self, what: str, wanted: Wanted, guidance_scale: float = 0.0) -> str:
        """What to tell when values are not finite: what may have made them so."""
        causes = []
        if self.unet.dtype == torch.float16:
            causes.append("float16 overflows (load the model with dtype=torch.float32)")
        if any(pack is not None and not _finite(pack) for pack, _ in wanted):
            causes.append("the fit of the pack diverged (fit again at a lower learning rate)")
        if guidance_scale > _MUCH_GUIDANCE:
            causes.append(f"guidance_scale={guidance_scale:g} is too large")
        why = ", or ".join(causes) or "the model's weights are damaged (load another model)"
        return f"{what} hold NaN or infinite values, nothing was drawn: {why}"

    def _learned_weights(self, requests: Sequence[Request]) -> dict[str, nn.Parameter]:
        """UNet weights beyond K and V, of the one pack that is in this batch."""
        pack = requests[0].pack
        if pack is None:
            return {}
        unet = self.unet
        return {name: nn.Parameter(w.to(unet.device, unet.dtype), requires_grad=False) for name, w in pack.unet.items()}

    def _scheduler(self, num_inference_steps: int, strength: float) -> Any:
        own = copy.deepcopy(self.scheduler)  # some remember steps
        skipped = skipped_steps(num_inference_steps, strength)
        return LastSteps(own, skipped) if skipped else own

    def _pipeline(self, num_inference_steps: int, strength: float) -> Any:
        own = {"scheduler": None, "unet": self.unet} | {part.name: part.encoder for part in self.text_parts}
        pipe = self.family.pipeline(dict(self.pipe.components) | own)
        pipe.scheduler = self._scheduler(
            num_inference_steps, strength
        )  # afterwards: a pipeline corrects what it is given
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @torch.no_grad()
    def _condition(self, wanted: Wanted) -> tuple[TextStates, dict[str, CachedKeyValueProcessor]]:
        """Encode prompts under their packs and project them to K and V: once per distinct prompt, for all steps.

        Returns:
            Text states, one row per item of ``wanted``, and processors that hold the projections.

        Raises:
            NotFiniteError: of states or projections that hold NaN or infinite values.
        """
        distinct: dict[tuple[int, str], int] = {}
        segments: list[Segments] = []
        encoded: list[TextStates] = []
        for pack, prompt in wanted:
            if (id(pack), prompt) not in distinct:
                distinct[id(pack), prompt] = len(distinct)
                segments.append(self._segments(pack, prompt))
                encoded.append(self._encode(pack, prompt))
        rows = torch.tensor([distinct[id(pack), prompt] for pack, prompt in wanted], device=self.unet.device)
        text = joined(encoded)[rows]
        finite = [text.finite()]
        processors = {}
        for name, layer in self.layers.items():
            key, value = (
                torch.stack([_project(m, e.states[0], s, name, i) for e, s in zip(encoded, segments, strict=True)])
                for i, m in enumerate((layer.to_k, layer.to_v))
            )
            finite += [key.isfinite().all(), value.isfinite().all()]
            processors[name] = CachedKeyValueProcessor(key[rows], value[rows])
        if not torch.stack(finite).all():
            raise NotFiniteError(self._not_finite("the text states or their keys and values", wanted))
        return text, processors

    def _segments(self, pack: ConceptPack | None, prompt: str) -> Segments:
        """Whose K and V which tokens of a prompt get; later segments overrule earlier ones."""
        if not isinstance(pack, RoutedPack):
            return [(slice(None), pack)]
        owned = token_owners(pack, self.conditioner(pack), prompt)
        return [(slice(None), None), *zip(owned, pack.parts, strict=True)]

    def _encode(self, pack: ConceptPack | None, prompt: str) -> TextStates:
        """Return the text states of a prompt under a pack, one row; an empty one can be a negative prompt alone."""
        conditioner = self.conditioner(pack)
        rows = pack.embeddings.float() if pack is not None else None
        text = conditioner.encode([prompt], rows).to(self.unet.device, self.unet.dtype)
        return text if prompt else self.family.without_prompt(self.pipe, text)

    def conditioner(self, pack: ConceptPack | None) -> TextConditioner:
        """Return the tokenizer and text encoder extended by a pack's tokens."""
        tokens = tuple(pack.tokens) if pack is not None else ()
        fitted = pack.clip_skip if pack is not None else 0
        key = (tokens, fitted if self.clip_skip is None else self.clip_skip)
        if key not in self._conditioners:
            self._conditioners[key] = TextConditioner(self.family, self.text_parts, *key)
        return self._conditioners[key]

    def check_prompt(self, prompt: str, pack: ConceptPack | None) -> list[str]:
        """Check a prompt against the pack it is meant with.

        Returns:
            Notes worth telling the user.

        Raises:
            InputError: empty, an unknown token, or a learned token without its class noun.
        """
        concepts = pack.concepts if pack is not None else []
        written = check_tokens(prompt, concepts, "concepts")
        conditioner = self._check_phrases(prompt, pack, written)
        note = prompt_note(concepts, written, conditioner.length, truncated=conditioner.truncated(prompt))
        return [*([note] if note else []), *word_notes(prompt, conditioner.unknown_words(prompt))]

    def check_negative(self, prompt: str, pack: ConceptPack | None) -> list[str]:
        """Check a negative prompt likewise; it may be empty."""
        concepts = pack.concepts if pack is not None else []
        conditioner = self._check_phrases(prompt, pack, check_negative(prompt, concepts, "concepts"))
        note = negative_note(conditioner.length, truncated=conditioner.truncated(prompt))
        return [*([note] if note else []), *word_notes(prompt, conditioner.unknown_words(prompt))]

    def _check_phrases(self, prompt: str, pack: ConceptPack | None, written: Sequence[str]) -> TextConditioner:
        """Check that the written tokens stand before their nouns."""
        concepts: Sequence[Concept] = pack.concepts if pack is not None else []
        conditioner = self.conditioner(pack)
        ids = conditioner.tokenize([prompt])[0].tolist()
        for slot, concept in enumerate(concepts):
            if concept.token in written:
                modifier = conditioner.table_size + slot
                find_positions(ids, modifier, conditioner.pieces(concept.noun), phrase=concept.phrase)
        return conditioner


def _project(module: Any, states: Tensor, segments: Segments, name: str, which: int) -> Tensor:
    """Project the text states ``[T, C]`` of a prompt by each segment's own K (``which`` 0) or V (1)."""
    out = torch.empty(len(states), module.out_features, dtype=states.dtype, device=states.device)
    for where, pack in segments:
        rows = states[where]
        if pack is None or name not in pack.key_value:
            out[where] = module(rows)
            continue
        matrix = converted(pack.key_value[name][which], device=rows.device, dtype=rows.dtype)
        learned = projected(module, rows, matrix)
        base = getattr(module, "base_layer", None)
        # A LoRA on this very projection adds to the pack's weights instead of being hidden by them.
        if base is not None and not isinstance(matrix, LowRank):
            learned = learned + (module(rows) - base(rows))
        out[where] = learned
    return out


def _finite(pack: ConceptPack) -> bool:
    try:
        for each in (pack, *getattr(pack, "parts", ())):
            each.check_finite()
    except NotFiniteError:
        return False
    return True
