"""File metadata that model managers read (ModelSpec 1.0.1); every value is a string."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..families import load_family
from ..pack import ConceptPack

_WIDTH = 1024  # of the text states of Stable Diffusion 2.x, for packs that do not say their family


def modelspec(pack: ConceptPack, kind: str, words: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the metadata of an exported pack.

    Args:
        pack: what is exported.
        kind: ``"lora"`` or ``"textual-inversion"``.
        words: what is typed instead of each token, where that is another word.
    """
    family = load_family(pack.base.family or ("sd2" if pack.base.context == _WIDTH else "sd1"))
    typed, names = pack.prompt, ", ".join(c.phrase for c in pack.concepts)
    for token, word in words.items():
        typed, names = typed.replace(token, word), names.replace(token, word)
    stated = pack.statement
    rights = {"modelspec.license": stated.licence} if stated.licence else {}
    rights |= {"personalizer.consent": stated.consent} if stated.consent else {}
    return rights | {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.architecture}/{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": names,
        "modelspec.resolution": f"{pack.base.resolution}x{pack.base.resolution}",
        "modelspec.trigger_phrase": typed,
        "modelspec.usage_hint": f"write {names} in the prompt; the tokens are in files of their own",
        "modelspec.hash_sha256": f"0x{stated.content}",
    }
