"""Where concepts are: from attention, from the user, and windows on single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .attention_maps import AttentionProbe
    from .concept_masks import ConceptMasks
    from .find import masks_of
    from .options import MaskOptions
    from .similarity import overlap
    from .user import read_masks

_HOMES = {
    "AttentionProbe": ".attention_maps",
    "ConceptMasks": ".concept_masks",
    "MaskOptions": ".options",
    "masks_of": ".find",
    "overlap": ".similarity",
    "read_masks": ".user",
}
__all__ = ["AttentionProbe", "ConceptMasks", "MaskOptions", "masks_of", "overlap", "read_masks"]
__getattr__ = public_names(__name__, _HOMES)
