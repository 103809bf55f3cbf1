"""The CLIP-style tokenizer of the drawn world: every word of its captions is one token."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .captions import WORDS

MAX_LENGTH = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer: a byte-pair vocabulary in which each world word is one token.

    Words outside the world fall apart into letters, as rare words do in CLIP's own vocabulary.
    """
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    # The trainer breaks ties by the pieces' numbers, and numbers the words' endings as a hash map happens to
    # give them, anew in every process. Named beforehand, they are numbered alike every time.
    first_pieces = dict.fromkeys([*characters, *(word[-1] + "</w>" for word in WORDS)])
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, end_of_word_suffix="</w>", special_tokens=list(first_pieces), show_progress=False
    )
    model.train_from_iterator(WORDS, trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    pieces = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), _START, _END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary_file.write_text(json.dumps(vocabulary), encoding="utf-8")
        merges_file.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
        return CLIPTokenizer(
            str(vocabulary_file),
            str(merges_file),
            unk_token=_END,
            bos_token=_START,
            eos_token=_END,
            pad_token=_END,
            model_max_length=MAX_LENGTH,
        )
