"""What is wrong with prompts for an exported model, and what is worth saying about them."""

from __future__ import annotations

from collections.abc import Sequence

from ..concepts import Concept
from ..rules.prompts import check_negative, negative_note, readable_part, unknown_words, word_notes
from .tokenizer import PromptTokenizer


def check_prompt(tokenizer: PromptTokenizer, text: str, concepts: Sequence[Concept]) -> list[str]:
    """Check a prompt against the concepts it is meant with.

    Returns:
        Notes worth telling the user.

    Raises:
        InputError: an empty prompt, an unknown token, or a learned token without its class noun.
    """
    note = tokenizer.check(text, concepts)
    return [*([note] if note else []), *word_notes(text, _unknown(tokenizer, text))]


def check_minus(tokenizer: PromptTokenizer, text: str, concepts: Sequence[Concept]) -> list[str]:
    """Check a negative prompt likewise; it may be empty."""
    if not text.strip():
        return []
    written = check_negative(text, concepts, "concepts")
    # Where no token is written, there is nothing to say but that the text is too long.
    note = negative_note(tokenizer.length, truncated=tokenizer.check(text, concepts if written else ()) is not None)
    return [*([note] if note else []), *word_notes(text, _unknown(tokenizer, text))]


def readable(tokenizer: PromptTokenizer, text: str) -> str:
    """Return the part of a text that the model may read."""
    return readable_part(text, tokenizer.length)


def _unknown(tokenizer: PromptTokenizer, text: str) -> list[str]:
    """The words that a closed vocabulary does not hold."""
    end = int(tokenizer.ids("", ())[1])

    def spelled(word: str) -> list[int]:
        ids = tokenizer.ids(word, ())[1:].tolist()
        return ids[: ids.index(end)] if end in ids else ids  # in these vocabularies the unknown token is the end's

    return unknown_words(text, spelled, tokenizer.length)
