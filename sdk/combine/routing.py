"""Packs that were fitted apart, used in one prompt, each at its own tokens (ours).

K and V of a token come from the matrices of the pack whose words it belongs to, those of all other tokens from the base
model. Nothing is solved, nothing interferes; the packs stay as they are. :mod:`sdk.combine.merging` does it in closed
form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..concepts import Concept, checked_concepts, find_positions
from ..errors import InputError, OutputError
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..rights import joined_rights
from ..rules.arguments import listed, of_type


@dataclass(repr=False, eq=False)
class RoutedPack(ConceptPack):
    """Several packs, each at work on its own words only.

    Attributes:
        parts: the packs, their tokens all different.
    """

    parts: list[ConceptPack] = field(default_factory=list)

    def content_hash(self) -> str:
        """Return the SHA-256 of what all parts learned."""
        return hashlib.sha256(" ".join(part.content_hash() for part in self.parts).encode()).hexdigest()

    def check_storable(self) -> None:
        """Refuse: routed packs act in memory only.

        Raises:
            InputError: always.
        """
        raise InputError(f"packs routed by token act in memory only; export each of {len(self.parts)}, or merge them")

    def save_pretrained(self, folder: str | Path) -> Path:
        """Refuse: save the parts, they lose nothing.

        Raises:
            OutputError: always.
        """
        raise OutputError(f"packs that are used together stay apart on disk; save each of {len(self.parts)} by itself")


def route(packs: Sequence[ConceptPack]) -> RoutedPack:
    """Return packs for use in one prompt, each at its own tokens; tokens that clash are renamed.

    Raises:
        InputError: fewer than two packs, or packs of different base models or with UNet weights beyond K and V.
    """
    parts = with_own_tokens(packs)
    first = parts[0]
    return RoutedPack(
        concepts=[c for pack in parts for c in pack.concepts],
        base=first.base,
        key_value={},
        embeddings=torch.cat([pack.embeddings for pack in parts]),
        method="routed",
        settings={"clip_skip": first.clip_skip} if first.clip_skip else {},
        provenance={
            "parts": [pack.content_hash() for pack in parts],
            **joined_rights([pack.provenance for pack in packs]),
        },
        parts=parts,
    )


def with_own_tokens(packs: Sequence[ConceptPack]) -> list[ConceptPack]:
    """Return the packs, tokens that an earlier one uses renamed to the next free ``<newN>``.

    Raises:
        InputError: fewer than two, or packs that cannot be used together.
    """
    packs = [of_type(pack, ConceptPack, "each of packs") for pack in listed(packs, "packs", "packs")]
    if len(packs) < 2:
        raise InputError(f"give at least two packs to combine, got {len(packs)}")
    taken: set[str] = set()
    parts = []
    for pack in packs:
        difference = packs[0].base.difference(pack.base)
        if difference is not None:
            raise InputError(f"packs of different base models cannot be combined: {difference}")
        if pack.clip_skip != packs[0].clip_skip:
            raise InputError(f"packs of clip_skip {packs[0].clip_skip} and {pack.clip_skip} cannot be combined")
        if pack.unet or not pack.key_value:
            raise InputError(f"a pack of {pack.method} cannot be combined; use methods that train K and V alone")
        concepts = []
        for concept in pack.concepts:
            token, number = concept.token, 1
            while token.lower() in taken:
                token, number = f"<new{number}>", number + 1
            taken.add(token.lower())
            concepts.append(Concept(concept.noun, token))
        parts.append(replace(pack, concepts=concepts))
    checked_concepts([c for pack in parts for c in pack.concepts])
    return parts


def token_owners(pack: RoutedPack, conditioner: TextConditioner, prompt: str) -> list[list[int]]:
    """Return, for each part of a routed pack, the positions of its words in a prompt."""
    ids = conditioner.tokenize([prompt])[0].tolist()
    owned, slot = [], 0
    for part in pack.parts:
        positions: list[int] = []
        for concept in part.concepts:
            modifier_id = conditioner.table_size + slot
            slot += 1
            if modifier_id in ids:
                modifier, noun = find_positions(
                    ids, modifier_id, conditioner.pieces(concept.noun), phrase=concept.phrase
                )
                positions += [modifier, *noun]
        owned.append(positions)
    return owned
