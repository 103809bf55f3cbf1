"""Where concepts stand in captions, and their maps out of the maps of those positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..concepts import Concept, find_positions
from ..errors import InputError
from .text import TextConditioner


class ConceptPositions:
    """Finds the modifier and the pieces of the noun of each concept.

    Args:
        conditioner: knows the concepts' tokens, in their order.
        concepts: the concepts.

    Attributes:
        pieces: number of tokens of each noun, int64 ``[S]``.
        longest: the most of them.

    Raises:
        InputError: a noun that the tokenizer makes nothing of.
    """

    def __init__(self, conditioner: TextConditioner, concepts: Sequence[Concept]):
        self.conditioner, self.concepts = conditioner, list(concepts)
        self._nouns = [conditioner.pieces(c.noun) for c in concepts]
        for concept, noun in zip(self.concepts, self._nouns, strict=True):
            if not noun:
                raise InputError(f"the model has no words for {concept.noun!r}; name its class otherwise")
        self.pieces = torch.tensor([len(noun) for noun in self._nouns])
        self.longest = max((len(noun) for noun in self._nouns), default=0)

    def find(self, captions: Sequence[str], named: Sequence[tuple[int, ...]]) -> Tensor:
        """Return where concepts stand in captions.

        Args:
            captions: ``B`` of them.
            named: per caption, the indices of the concepts to look for.

        Returns:
            int64 ``[B, S, 1 + P]``: each concept's modifier and the pieces of its noun, padded with -1 to the longest
            noun's ``P``, and all -1 where it is not looked for.
        """
        found = torch.full((len(captions), len(self.concepts), 1 + self.longest), -1)
        for row, ids in enumerate(self.conditioner.tokenize(captions).tolist()):
            for slot in named[row]:
                modifier_id = self.conditioner.table_size + slot
                phrase = self.concepts[slot].phrase
                modifier, places = find_positions(ids, modifier_id, self._nouns[slot], phrase=phrase)
                found[row, slot, : 1 + len(places)] = torch.tensor([modifier, *places])
        return found

    def maps(self, recorded: Tensor) -> Tensor:
        """Return the maps ``[B, 2S, h, w]`` of modifier and class of each concept, mean over a noun's pieces.

        Args:
            recorded: maps of all positions that :meth:`find` returned, flattened, ``[B, S * (1 + P), h, w]``.
        """
        if self.pieces.device != recorded.device:  # once, as a step that is recorded may not fetch it
            self.pieces = self.pieces.to(recorded.device)
        grouped = recorded.unflatten(1, (len(self.concepts), -1))
        modifiers = grouped[:, :, 0]
        classes = grouped[:, :, 1:].sum(2) / self.pieces.to(recorded)[None, :, None, None]
        return torch.stack([modifiers, classes], 2).flatten(1, 2)
