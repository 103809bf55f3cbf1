"""Is a ``tokenizer.json`` CLIP's kind? The library runs whatever such a file says, some of it without end.

Rules that replace text can make gigabytes of a word, and expressions can be made that never end. So only the steps that
CLIP's tokenizers have are let through; words and merges may be any.
"""

from __future__ import annotations

import json
from typing import Any

_MOST_STEPS = 4
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_EXPRESSIONS = (_WORDS, rf"<\|startoftext\|>|<\|endoftext\|>|{_WORDS}")  # of transformers 4 and 5
_SEQUENCES = ("normalizers", "pretokenizers")
# Steps by type, and what each of their settings may be; settings that are not named may be any plain value.
_STEPS: dict[str, dict[str, Any]] = {
    "NFC": {},
    "Lowercase": {},
    "Replace": {"pattern": ({"Regex": r"\s+"},), "content": (" ",)},
    "Split": {"pattern": tuple({"Regex": each} for each in _EXPRESSIONS), "behavior": ("Removed",), "invert": (True,)},
    "ByteLevel": {},
    "RobertaProcessing": {},
}
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def is_clips(definition: str) -> bool:
    """Return whether a tokenizer's definition has CLIP's steps and a vocabulary of byte pairs."""
    try:
        about = json.loads(definition)
    except (ValueError, RecursionError):
        return False
    if not isinstance(about, dict) or not all(_known(about.get(part)) for part in _PARTS):
        return False
    model = about.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        return False
    unknown = model.get("unk_token")
    return model.get("dropout") is None and (unknown is None or unknown in model["vocab"])


def _known(step: object, nested: bool = False) -> bool:
    if step is None:
        return not nested
    if not isinstance(step, dict):
        return False
    kind = step.get("type")
    if kind == "Sequence" and not nested:
        steps = next((step[name] for name in _SEQUENCES if name in step), None)
        return isinstance(steps, list) and len(steps) <= _MOST_STEPS and all(_known(each, True) for each in steps)
    if not isinstance(kind, str) or kind not in _STEPS:
        return False
    return all(step.get(name) in allowed for name, allowed in _STEPS[kind].items())
