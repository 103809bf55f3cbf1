"""What is asked of a call that draws: one request per picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..drawing_rules import check_counts, one_each
from ..errors import InputError
from ..pack import ConceptPack


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
    packs = list(concepts)
    if len(packs) != len(prompts):
        raise InputError(f"give one pack, or one for each of the {len(prompts)} prompts, got {len(packs)}")
    if any(pack is not None and not isinstance(pack, ConceptPack) for pack in packs):
        raise InputError("concepts must be packs; read one with ConceptPack.from_pretrained(folder)")
    return packs


def requests_for(
    prompts: Sequence[str],
    packs: Sequence[ConceptPack | None],
    num_images: int,
    seed: int | None,
    negative: str | Sequence[str] | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> list[Request]:
    """Return ``num_images`` requests per prompt, all of the first prompt, then all of the second, ...

    Args:
        prompts: at least one.
        packs: one per prompt.
        num_images: per prompt.
        seed: picture ``i`` has ``seed + i``; ``None``: at random.
        negative: one for all, or one per prompt.
        generator: a single one gives each picture a seed; of a list only the length is looked at.

    Raises:
        InputError: no prompt, no picture, or counts that do not fit.
    """
    check_counts(prompts, num_images)
    negatives = one_each(negative or "", len(prompts), "negative prompt")
    total = len(prompts) * num_images
    if isinstance(generator, list) and len(generator) != total:
        raise InputError(f"give one generator, or one for each of the {total} pictures, got {len(generator)}")
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**62, (total,), generator=generator, device=generator.device).tolist()
    else:
        first = int(torch.randint(2**31, ()).item()) if seed is None else seed
        seeds = list(range(first, first + total))
    return [
        Request(text, minus, pack, seeds[index * num_images + k])
        for index, (text, minus, pack) in enumerate(zip(prompts, negatives, packs, strict=True))
        for k in range(num_images)
    ]
