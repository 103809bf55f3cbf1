"""Packs: what a fit learned, in memory and on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .concept_pack import ConceptPack
    from .layout import BY_PRODUCTS, FORMAT_VERSION, MANIFEST, REFERENCE, UNET, WEIGHTS
    from .manifest import read_manifest
    from .tensors import read_tensors, tensor_file
    from .token_rows import token_tensors

_HOMES = {
    "BY_PRODUCTS": ".layout",
    "FORMAT_VERSION": ".layout",
    "MANIFEST": ".layout",
    "REFERENCE": ".layout",
    "UNET": ".layout",
    "WEIGHTS": ".layout",
    "ConceptPack": ".concept_pack",
    "read_manifest": ".manifest",
    "read_tensors": ".tensors",
    "tensor_file": ".tensors",
    "token_tensors": ".token_rows",
}
__all__ = [
    "BY_PRODUCTS",
    "FORMAT_VERSION",
    "MANIFEST",
    "REFERENCE",
    "UNET",
    "WEIGHTS",
    "ConceptPack",
    "read_manifest",
    "read_tensors",
    "tensor_file",
    "token_tensors",
]
__getattr__ = public_names(__name__, _HOMES)
