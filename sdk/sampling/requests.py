"""What is asked of a call that draws: one request per picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError
from ..pack import ConceptPack
from ..rules.arguments import several, shown
from ..rules.drawing import MOST_PICTURES, Numbers, first_seeds, one_text_each


@dataclass(frozen=True)
class Request:
    """One picture to draw: prompts, the pack they are meant with, and the seed of its noise."""

    prompt: str
    negative_prompt: str
    pack: ConceptPack | None
    seed: int


def packs_for(
    prompts: Sequence[str], concepts: ConceptPack | Sequence[ConceptPack | None] | None
) -> list[ConceptPack | None]:
    """Return the pack of each prompt: one for all, or a list of one each.

    Raises:
        InputError: another count, or something that is no pack.
    """
    if concepts is None or isinstance(concepts, ConceptPack):
        return [concepts] * len(prompts)
    if isinstance(concepts, (str, os.PathLike)):
        raise InputError(f"concepts must be packs, got a path; give ConceptPack.from_pretrained({str(concepts)!r})")
    packs = several(concepts, "concepts", "pack", MOST_PICTURES)
    if any(pack is not None and not isinstance(pack, ConceptPack) for pack in packs):
        raise InputError("concepts must be packs; read one with ConceptPack.from_pretrained(folder)")
    if len(packs) != len(prompts):
        raise InputError(f"give one pack, or one for each of the {len(prompts)} prompts, got {len(packs)}")
    return packs


def negatives_for(prompts: Sequence[str], negative: Any) -> list[str]:
    """Return the negative prompt of each prompt, empty for none: one for all, or one each.

    Raises:
        InputError: another count, or something that is no text.
    """
    return one_text_each(negative, len(prompts), "negative prompt", "")


def requests_for(
    prompts: Sequence[str],
    packs: Sequence[ConceptPack | None],
    numbers: Numbers,
    negatives: Sequence[str],
    generator: Any,
    device: torch.device,
) -> list[Request]:
    """Return one request per picture: all of the first prompt, then all of the second, ...

    Args:
        prompts: at least one.
        packs: one per prompt.
        numbers: of pictures per prompt and the seeds.
        negatives: one per prompt.
        generator: a single one gives each picture a seed; a list is only looked at.
        device: of the model, on which generators may be, too.

    Raises:
        InputError: a wrong number of generators, or one of another device.
    """
    total = len(prompts) * numbers.num_images
    if generator is not None:
        _check_generators(generator, total, device)
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**62, (total,), generator=generator, device=generator.device).tolist()
    else:
        count, firsts = numbers.num_images, numbers.seeds
        if firsts is None:
            firsts = first_seeds(int(torch.randint(2**31, ()).item()), len(prompts), count)
        seeds = [first + k for first in firsts for k in range(count)]
    return [
        Request(text, minus, pack, seeds[index * numbers.num_images + k])
        for index, (text, minus, pack) in enumerate(zip(prompts, negatives, packs, strict=True))
        for k in range(numbers.num_images)
    ]


def _check_generators(generator: Any, total: int, device: torch.device) -> None:
    given = generator if isinstance(generator, (list, tuple)) else [generator]
    for each in given:
        if not isinstance(each, torch.Generator):
            raise InputError(f"generator must be a torch.Generator or a list of them, got {shown(each)}")
        if each.device.type not in ("cpu", device.type):
            raise InputError(f"a generator is on {each.device}, the model on {device}; make one with torch.Generator()")
    if given is generator and len(given) != total:
        raise InputError(f"give one generator, or one for each of the {total} pictures, got {len(given)}")
