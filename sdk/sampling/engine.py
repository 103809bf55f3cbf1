"""A base model that draws: what fitting, evaluation and comparison work with, and what a user's object is made of."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from ..model.base_model import BaseModel
from ..pack import ConceptPack
from ..rights import Statement
from ..rules.arguments import cancelling, number, text, texts, to_be_called, whole
from ..rules.drawing import MOST_PICTURES, Generation, call_notes, check_numbers, sign
from ..rules.prompts import readable_part
from ..rules.speed import check_speed
from ..runtime import Cancelled, Phase, Progress, check_cancelled
from ..turns import beside_others
from ..views import redirected
from .at_once import pictures_at_once
from .attempts import ONE, Attempts, prepare, tried
from .from_picture import Start
from .requests import Request, negatives_for, packs_for, requests_for
from .sampler import Sampler
from .schedulers import check_scheduler, takes_eta

log = logging.getLogger("sdk")
_WITH_GRADIENT = 8  # times the memory of a plain pass, on the safe side


class Engine(BaseModel):
    """A base model that draws. Nothing here remembers a pack, and a call leaves nothing for the next one."""

    @beside_others()
    def draw(
        self,
        prompts: Sequence[str],
        packs: ConceptPack | Sequence[ConceptPack | None] | None,
        *,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        eta: float | None = None,
        scheduler: Any = None,
        speed: str = "exact",
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        start: Start | None = None,
        attempts: Attempts = ONE,
        separate: float = 0.0,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> Generation:
        """Draw prompts with packs; see :meth:`sdk.Personalizer.generate`. Several threads may draw at once.

        Args:
            prompts: what to draw.
            packs: one for all, or one (or ``None``: the plain base model) for each prompt.
            num_images: per prompt; the other arguments are those of ``generate``.
            start: where drawing starts from a picture.
            attempts: how often a picture may be drawn, and who says whether it is right.
            separate: see ``generate``; not from a picture.

        Raises:
            InputError: an empty prompt, a token that was not learned or lacks its class noun, arguments of another
                type, wrong counts or sizes.
            BaseModelError: a pack of another base model.
            NotFiniteError: the model computed NaN or infinite values.
        """
        longest = int(self.text_parts[0].tokenizer.model_max_length)
        prompts = [readable_part(each, longest) for each in texts(prompts, "prompt", MOST_PICTURES)]
        chosen = packs_for(prompts, packs)
        pace, notes = check_speed(speed, self.sampling.steps)
        usual = self.sampling.steps if pace.steps is None else pace.steps
        numbers = check_numbers(
            prompts,
            self.resolution,
            self.size_multiple,
            num_images=num_images,
            seed=seed,
            num_inference_steps=usual if num_inference_steps is None else num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            height=height,
            width=width,
        )
        guidance = self.sampling.guidance_scale if numbers.guidance is None else numbers.guidance
        rescale = self.sampling.guidance_rescale if numbers.rescale is None else numbers.rescale
        guided = guidance > 1 and not self.takes_guidance
        negatives = [readable_part(each, longest) for each in negatives_for(prompts, negative_prompt)]
        requests = requests_for(prompts, chosen, numbers, negatives, generator, self.device)
        cancelling(cancel)
        for name, function in (("progress", progress), ("callback_on_step_end", callback_on_step_end)):
            to_be_called(function, name)
        pace = pace.of(numbers.steps)
        if pace.shortens and redirected(self.pipe.unet):
            pace = pace.unshortened()
            notes.append(f"speed={speed!r} takes fewer steps alone, because the UNet is offloaded or compiled")
        apart = number(separate, "separate", 0, 1)
        if apart and pace.shortens:
            pace = pace.unshortened()
            notes.append(f"with separate, speed={speed!r} takes fewer steps alone")
        sampler = Sampler(self, None if clip_skip is None else whole(clip_skip, "clip_skip", 0), scheduler, pace)
        check_scheduler(sampler.scheduler, from_picture=start is not None)
        notes += self._checked(sampler, prompts, negatives if guided else [""] * len(prompts), chosen)
        notes += call_notes(
            type(sampler.scheduler).__name__,
            guided=guided,
            distilled=self.takes_guidance,
            negative=any(negatives),
            eta_unused=numbers.eta is not None and not takes_eta(sampler.scheduler),
            seed_unused=numbers.seeds is not None and generator is not None,
        )
        size = (numbers.height, numbers.width)
        coding = self.coding(size)
        if coding.tile is not None:
            notes.append(
                f"for want of memory pictures are decoded in tiles of {coding.tile} pixels, which shows a little"
            )
        for note in notes:
            log.warning(note)
        check_cancelled(cancel)
        at_once = pictures_at_once(self, size, guided=guided)
        if apart:  # a pass with its gradient keeps what a plain one lets go
            at_once = max(at_once // _WITH_GRADIENT, 1)
        steps = sampler.steps(numbers.steps, 1.0 if start is None else start.strength)
        generators = list(generator) if isinstance(generator, Sequence) else None
        seeds = [_fresh_seed(g) for g in generators or []]
        statements = {id(pack): pack.statement for pack in chosen if pack is not None}

        def signed(request: Request, seed: int | None, image: Image.Image) -> Image.Image:
            sign(
                image,
                request.prompt,
                request.negative_prompt if guided else "",
                seed,
                numbers=numbers,
                guidance=guidance,
                rescale=rescale if guided else 0.0,
                scheduler=type(sampler.scheduler).__name__,
                base=self.base.name,
                concepts=() if request.pack is None else request.pack.concepts,
                statement=statements.get(id(request.pack), Statement()),
                edited=start is not None,
                strength=None if start is None or start.hole is not None else start.strength,
                clip_skip=sampler.conditioner(request.pack).clip_skip,
                speed=pace,
                separate=apart,
            )
            return image

        def drawn(requests: Sequence[Request]) -> list[Image.Image]:
            images: dict[int, Image.Image] = {}
            batches = _batches(requests, at_once)
            phase = Phase("draw", steps * len(batches), progress, cancel)
            for part in batches:
                try:
                    pictures = sampler.draw(
                        [requests[i] for i in part],
                        num_inference_steps=numbers.steps,
                        guidance_scale=guidance,
                        guidance_rescale=rescale,
                        eta=1.0 if numbers.eta is None else numbers.eta,
                        height=numbers.height,
                        width=numbers.width,
                        phase=phase,
                        generators=[generators[i] for i in part] if generators is not None else None,
                        start=start,
                        coding=coding,
                        separate=apart,
                        callback_on_step_end=callback_on_step_end,
                    )
                except Cancelled as stopped:
                    stopped.finished = images
                    raise
                for i, picture in zip(part, pictures, strict=True):
                    images[i] = signed(requests[i], requests[i].seed if generators is None else seeds[i], picture)
            return [images[index] for index in range(len(requests))]

        if attempts.checker is None:
            return Generation(drawn(requests), notes)
        prepare(requests, attempts.checker)
        images = drawn(requests)
        result = tried(requests, images, drawn, attempts)
        left = result.notes(attempts.most)
        for note in left:
            log.warning(note)
        return Generation(result.images, notes + left, result.attempts, result.faults)

    @beside_others()
    def check(self, prompt: str, pack: ConceptPack | None, negative_prompt: str = "") -> list[str]:
        """Check a prompt as :meth:`draw` does, and draw nothing; see :meth:`sdk.Personalizer.check_prompt`."""
        longest = int(self.text_parts[0].tokenizer.model_max_length)
        given = text(prompt, "prompt"), text(negative_prompt, "negative prompt")
        own, negative = (readable_part(each, longest) for each in given)
        return self._checked(Sampler(self), [own], [negative], packs_for([own], pack))

    def _checked(
        self,
        sampler: Sampler,
        prompts: Sequence[str],
        negatives: Sequence[str],
        packs: Sequence[ConceptPack | None],
    ) -> list[str]:
        """Check texts and packs against each other; return notes on them, each once."""
        notes: list[str] = []
        for each in {id(pack): pack for pack in packs if pack is not None}.values():
            self.check_base(each)
            remark = self.base.remark(each.base)
            notes += [remark] if remark else []
        for prompt, negative, pack in zip(prompts, negatives, packs, strict=True):
            notes += sampler.check_prompt(prompt, pack)
            if negative:
                notes += sampler.check_negative(negative, pack)
        return list(dict.fromkeys(notes))


def _batches(requests: Sequence[Request], size: int) -> list[list[int]]:
    """Which requests are drawn together; a pack with UNet weights of its own has batches to itself."""
    apart: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        whole = request.pack is not None and bool(request.pack.unet)
        apart.setdefault(id(request.pack) if whole else 0, []).append(index)
    return [indices[start : start + size] for indices in apart.values() for start in range(0, len(indices), size)]


def _fresh_seed(generator: torch.Generator) -> int | None:
    """The seed of a generator that nothing was drawn from yet; of a used one it says nothing."""
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(fresh.get_state(), generator.get_state()) else None
