"""Packs for other tools, as a zip file and with the words to type there; and what a pack is, in words."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..exports import load_format
from ..pack import ConceptPack
from .telling import text
from .words import names_of
from .workshop import Workshop, zipped

_PACK = "Another studio, or this package"
# What people call the tools, and the format and its options for each.
FORMATS_OF_PEOPLE: dict[str, tuple[str, dict[str, Any]] | None] = {
    "A1111, Forge, ComfyUI": ("webui", {}),
    "diffusers": ("diffusers", {}),
    "LoRA loaders": ("lora", {"dialect": "kohya"}),
    "ONNX Runtime": ("onnx", {}),
    _PACK: None,
}
_WHERE = {
    "webui": "The first file goes into the folder of LoRAs (models/Lora, in ComfyUI models/loras), the others into the "
    "folder of embeddings (embeddings, in ComfyUI models/embeddings).",
    "diffusers": "Unpack it; the lines below load it.",
    "lora": "Unpack it; the lines below load it.",
    "onnx": "Unpack it: a whole model that draws without torch.",
}


def exported(shop: Workshop, name: str, kind: str, scratch: Path) -> tuple[str, Path]:
    """Write a pack for a tool; return what to do with it, as HTML, and a zip file.

    Args:
        shop: has the pack.
        name: of the pack.
        kind: one of :data:`FORMATS_OF_PEOPLE`.
        scratch: where the zip file goes.

    Raises:
        SdkError: what cannot be exported so.
    """
    chosen = FORMATS_OF_PEOPLE[kind]
    if chosen is None:
        kept = shop.library.packs.get(name)
        words = "<p>Under <em>Packs</em>, another studio takes this zip file. Unpacked, it is a folder for "
        return words + "<code>personalizer generate</code>.</p>", zipped(kept.path, name, scratch)
    format_name, options = chosen
    if format_name in ("webui", "onnx"):
        options = options | {"name": name}
    pack = shop.read(name)
    if format_name == "onnx" and shop.learns:
        raise InputError("something is being learned, which a whole model would wait for; write it when that has ended")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        place = Path(folder) / name
        result = load_format(format_name).export(pack, shop.model, place, **options)
        file = zipped(place, f"{name}-{format_name}", scratch)
    prompts = result.prompts or {"the prompt": pack.prompt}
    typed = "".join(f"<dt>{text(tool)}</dt><dd><code>{text(words)}</code></dd>" for tool, words in prompts.items())
    usage = "".join(f"<li>{text(line.replace(str(place), name))}</li>" for line in result.usage)
    return f"<p>{_WHERE[format_name]}</p><p>Type there:</p><dl>{typed}</dl><ul>{usage}</ul>", file


def facts_of(pack: ConceptPack) -> str:
    """Return what a pack is, as HTML."""
    stated = pack.statement
    rows = {
        "Files": "whole",
        "Belongs to": f"{pack.base.name}, as this studio's model does",
        "Knows": ", ".join(names_of(pack.concepts)),
        "Learned by": pack.method,
        "Licence": stated.licence,
        "Consent": stated.consent,
        "Content": pack.content_hash(),
    }
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows.items() if value)
    return f'<div class="note" role="status"><dl>{lines}</dl></div>'
