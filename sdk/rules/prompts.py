"""The words of prompts, for torch and for ONNX Runtime alike: which of them the model reads, and which it knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ..concepts import Concept, tokens_in
from ..errors import InputError

_LETTERS = 100  # characters a token: more than any token has
_NAMED = 5  # unknown words in a note
_WORD = re.compile(r"[^\W\d_]+")
_IN_ANGLES = re.compile(r"<[^<>\s]*>")
_WEIGHTED = re.compile(r"\([^():]{1,80}:\s{0,9}[+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})\s{0,9}\)")
_LORA = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,100}>", re.IGNORECASE)
_NOBODYS = "\u2603"  # a snowman: a vocabulary of bytes spells it, one of words alone cannot


def readable_part(text: str, longest: int) -> str:
    """Return the part of a text that can be among the tokens a model reads; a novel need not be split into words."""
    limit = _LETTERS * longest
    return text if len(text) <= limit else " ".join(text.split())[:limit]


def unknown_words(text: str, spelled: Callable[[str], Sequence[int]], longest: int) -> list[str]:
    """Return the words that a model was never shown; none where its vocabulary is open.

    A vocabulary that can spell every byte is open: its model met words in pieces. Of a closed one (the bundled model's)
    a word is known whole or not at all.

    Args:
        text: a prompt or a class noun.
        spelled: ids of a word, without start and end token; empty if it cannot be spelled.
        longest: words that are looked at, from the start.
    """
    if spelled(_NOBODYS):
        return []
    words = dict.fromkeys(_WORD.findall(_IN_ANGLES.sub(" ", text))[:longest])
    return [word for word in words if len(spelled(word)) != 1]


def word_notes(text: str, unknown: Sequence[str]) -> list[str]:
    """Return what is worth telling about the words of a prompt.

    Args:
        text: the prompt.
        unknown: its :func:`unknown_words`.
    """
    notes = []
    if unknown:
        names = " and ".join(repr(word) for word in unknown[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more words" if len(unknown) > _NAMED else ""
        notes.append(f"the model does not know {names}{more}; it was never shown what that is")
    weighted = _WEIGHTED.search(text)
    if weighted is not None:
        notes.append(f"weights in brackets are read as words, as in {weighted[0]!r}; write the prompt without them")
    lora = _LORA.search(text)
    if lora is not None:
        notes.append(f"{lora[0]} loads nothing here; load_lora_weights does, and the prompt is written without it")
    return notes


def negative_note(longest: int, *, truncated: bool) -> str | None:
    """Return what is worth telling about a negative prompt's length, or ``None``."""
    return f"the negative prompt is longer than {longest} tokens; its end is not read" if truncated else None


def check_negative(text: str, concepts: Iterable[Concept], option: str) -> list[str]:
    """Return the tokens written in a negative prompt, all of them learned.

    Args:
        text: what to steer away from, often nothing.
        concepts: of the pack in use; none without a pack.
        option: the argument that would give a pack, for the message.

    Raises:
        InputError: a token that was not learned.
    """
    written = tokens_in(text)
    known = [c.token for c in concepts]
    for token in written:
        if token not in known:
            there = f"this pack knows {', '.join(known)}" if known else f"no pack is in use, give one with {option}="
            raise InputError(f"the negative prompt uses {token}, which was not learned; {there}")
    return written
