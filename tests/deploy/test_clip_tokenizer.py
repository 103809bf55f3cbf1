"""A tokenizer's file runs whatever it says; those of exports say what CLIP's say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdk.deploy.clip_tokenizer import is_clips

DEFINITION = json.loads((Path(__file__).parents[2] / "sdk/bundled/model/tokenizer/tokenizer.json").read_text())
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

SPLIT = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True}  # transformers 4
GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}


def changed(**parts):
    return json.dumps({**DEFINITION, **parts})


def test_clips_own():
    assert is_clips(changed())
    steps = [SPLIT, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}]
    assert is_clips(changed(pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))


@pytest.mark.parametrize(
    "parts",
    [
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 3,
            }
        },
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "x"}},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(?:a|a|aa)+$"},
                "behavior": "Removed",
                "invert": True,
            }
        },
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 50}},
        {"model": DEFINITION["model"] | {"unk_token": "\x1b[31m"}},
        {"model": DEFINITION["model"] | {"type": "Unigram"}},
        {"model": DEFINITION["model"] | {"dropout": 0.5}},
        {"model": 5},
        {"post_processor": {"type": ["NFC"]}},
    ],
    ids=str,
)
def test_anything_else(parts):
    assert not is_clips(changed(**parts))


def test_no_json():
    assert not is_clips("{")
    assert not is_clips("[" * 100_000)
    assert not is_clips("[]")
