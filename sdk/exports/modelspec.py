"""File metadata that model managers read (ModelSpec 1.0.1); every value is a string."""

from __future__ import annotations

from ..pack import ConceptPack

_ARCHITECTURES = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}  # by the width of the text states


def modelspec(pack: ConceptPack, kind: str) -> dict[str, str]:
    """Return the metadata of an exported pack; ``kind`` is ``"lora"`` or ``"textual-inversion"``."""
    names = ", ".join(c.phrase for c in pack.concepts)
    stated = pack.statement
    rights = {"modelspec.license": stated.licence} if stated.licence else {}
    rights |= {"personalizer.consent": stated.consent} if stated.consent else {}
    return rights | {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES.get(pack.base.context, 'stable-diffusion')}/{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": names,
        "modelspec.resolution": f"{pack.base.resolution}x{pack.base.resolution}",
        "modelspec.trigger_phrase": pack.prompt,
        "modelspec.usage_hint": f"write {names} in the prompt; the tokens are in files of their own",
        "modelspec.hash_sha256": f"0x{stated.content}",
    }
