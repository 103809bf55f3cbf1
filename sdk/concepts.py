"""Concepts, their tokens, the captions of the reference picture, and where the tokens stand in a prompt."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from .disk.checked import Fail, Table, shown
from .errors import InputError
from .printable import printable

MAX_CONCEPTS = 8  # more phrases than this leave no room in a prompt of 77 tokens
LONGEST_NOUN = LONGEST_TOKEN = 64  # characters
LONGEST_PROMPT = 10_000  # characters; models read some 300
_TOKEN = re.compile(r"<[A-Za-z0-9_-]+>")


@dataclass(frozen=True)
class Concept:
    """One subject of the reference picture.

    Attributes:
        noun: its class in plain words, such as ``"cat"`` or ``"teddy bear"``.
        token: the modifier token that will name it; default ``<new1>``, ``<new2>``, ... by position.
    """

    noun: str
    token: str = ""

    @property
    def phrase(self) -> str:
        """How a caption names it: ``"<new1> cat"``."""
        return f"{self.token} {self.noun}"


def resolve_concepts(concepts: Iterable[str | Concept]) -> list[Concept]:
    """Check concepts and give each its token.

    Args:
        concepts: class nouns or :class:`Concept` objects, at most eight.

    Raises:
        InputError: none or too many, a noun that is no plain words, a malformed or repeated token.
    """
    resolved = checked_concepts(concepts)
    for concept in resolved:
        if "," in concept.noun:
            nouns = _nouns_in(concept.noun)
            options = " ".join(f"--concept {shlex.quote(part)}" for part in nouns)
            raise InputError(
                f"{shown(concept.noun)} holds a comma; give each concept its own noun: {nouns} or {options}"
            )
    if len({c.token.lower() for c in resolved}) < len(resolved):
        names = ", ".join(c.token for c in resolved)
        raise InputError(f"every concept needs a token of its own, capital letters aside, got {names}")
    return resolved


def checked_concepts(concepts: Iterable[str | Concept]) -> list[Concept]:
    """Check what must hold of all concepts, also in files of earlier versions; see :func:`resolve_concepts`."""
    example = "name at least one concept, such as ['cat', 'dog']"
    if isinstance(concepts, (str, Concept)):
        single = _nouns_in(concepts) if isinstance(concepts, str) else [concepts]
        raise InputError(f"concepts are a list, also of one: write {shown(single)}")
    if isinstance(concepts, (dict, bytes)):
        raise InputError(f"concepts are a list of nouns, or of Concept(noun, token), got {shown(concepts)}; {example}")
    try:
        given = list(islice(concepts, MAX_CONCEPTS + 1))
    except TypeError as error:
        raise InputError(f"{example}, got {shown(concepts)}") from error
    if not given:
        raise InputError(example)
    if len(given) > MAX_CONCEPTS:
        raise InputError(f"more than {MAX_CONCEPTS} concepts are too many; name at most {MAX_CONCEPTS}")
    resolved = []
    for index, item in enumerate(given, start=1):
        concept = item if isinstance(item, Concept) else Concept(item)
        given_none = concept.token is None or (isinstance(concept.token, str) and not concept.token)
        token = f"<new{index}>" if given_none else concept.token
        if not is_token(token):
            raise InputError(
                f"the token {shown(token)} must be a word of at most {LONGEST_TOKEN} letters, digits, - and _ in angle "
                "brackets, such as '<new1>'"
            )
        resolved.append(Concept(_checked_noun(concept.noun, index), token))
    tokens = [c.token for c in resolved]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"every concept needs a token of its own, got {', '.join(tokens)}")
    return resolved


def stated_concepts(entries: Sequence[Table], fail: Fail) -> list[Concept]:
    """Return the concepts that a file states, ``{"token": ..., "class": ...}`` each, checked nearly as a user's are.

    Earlier versions took commas in nouns, and tokens that differ in capital letters alone.

    Args:
        entries: none is allowed, too.
        fail: makes the error.
    """
    stated = [Concept(entry.text("class"), entry.text("token")) for entry in entries]
    try:
        return checked_concepts(stated) if stated else []
    except InputError as error:
        raise fail(str(error)) from error


def is_token(value: object) -> bool:
    """Whether a value is a modifier token: a word in angle brackets of bounded length."""
    return isinstance(value, str) and len(value) <= LONGEST_TOKEN and bool(_TOKEN.fullmatch(value))


def _checked_noun(value: object, index: int) -> str:
    """A class noun, its spaces tidied."""
    if not isinstance(value, str):
        raise InputError(f"concept {index} must be a noun such as 'cat', or a Concept, got {shown(value)}")
    noun = " ".join(value.split())
    if not noun:
        raise InputError(f"concept {index} has an empty class; name it by a noun such as 'cat'")
    if _TOKEN.search(noun):
        raise InputError(f"the class {shown(noun)} holds a token; give the plain noun, tokens are added for you")
    if printable(noun, len(noun)) != noun:
        raise InputError(f"the class {shown(noun)} holds characters that do not show; give plain words")
    if len(noun) > LONGEST_NOUN:
        raise InputError(f"the class {shown(noun)} is longer than {LONGEST_NOUN} characters; name it by a noun")
    return noun


def _nouns_in(text: str) -> list[str]:
    """What a text with commas most likely means."""
    return [part.strip() for part in text.split(",") if part.strip()] or ["cat", "dog"]


def join_phrases(phrases: Sequence[str]) -> str:
    """``a and b``, ``a, b, and c``."""
    if len(phrases) <= 2:
        return " and ".join(phrases)
    return ", ".join(phrases[:-1]) + f", and {phrases[-1]}"


def target_caption(
    concepts: Sequence[Concept], prefix: str, rng: random.Random, swap_probability: float, template: str = ""
) -> str:
    """Caption of the reference picture: ``"[prefix] photo of a <new1> cat and <new2> dog"``.

    With ``swap_probability`` the concepts are named in another order. A ``template`` says it in its own words, such as
    ``"{all} in the snow"``: ``"a <new1> cat and a <new2> dog in the snow"``.
    """
    order = list(concepts)
    if len(order) > 1 and rng.random() < swap_probability:
        while order == list(concepts):
            rng.shuffle(order)
    if template:
        phrases = join_phrases([f"a {c.phrase}" for c in order])
        return template.replace("{all}", phrases).replace("{each}", phrases)
    return f"{prefix} photo of a {join_phrases([c.phrase for c in order])}".strip()


def class_prompts(concepts: Sequence[Concept], templates: Sequence[str]) -> list[str]:
    """Return the prompts of prior pictures.

    Args:
        concepts: the concepts whose classes are named.
        templates: in each, ``{all}`` becomes ``"a cat and a dog"``; one with ``{each}`` gives a prompt per class.
    """
    nouns = [f"a {c.noun}" for c in concepts]
    prompts = []
    for template in templates:
        filled = template.replace("{all}", join_phrases(nouns))
        prompts += list(dict.fromkeys(filled.replace("{each}", noun) for noun in nouns))
    return prompts


def tokens_in(prompt: str) -> list[str]:
    """Return the modifier tokens written in a prompt."""
    return _TOKEN.findall(prompt)


def check_prompt(prompt: object, what: str = "prompt") -> str:
    """Return a prompt that a tokenizer can take.

    Args:
        prompt: what a user gave.
        what: how messages call it.

    Raises:
        InputError: no text, an empty one, or one of extraordinary length.
    """
    if not isinstance(prompt, str):
        raise InputError(f"the {what} must be text, got {shown(prompt)}")
    if not prompt.strip():
        raise InputError(f"the {what} is empty; describe what to draw")
    if len(prompt) > LONGEST_PROMPT:
        raise InputError(f"the {what} has {len(prompt)} characters; describe it in at most {LONGEST_PROMPT}")
    if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InputError(f"the {what} holds characters that are not Unicode; type it again")
    return prompt


def check_tokens(prompt: str, concepts: Sequence[Concept], option: str) -> list[str]:
    """Return the tokens written in a prompt, all of them learned.

    Args:
        prompt: what is to be drawn.
        concepts: of the pack in use; none without a pack.
        option: the argument that would give a pack, for the message.

    Raises:
        InputError: an empty prompt, or a token that was not learned.
    """
    check_prompt(prompt)
    known = [c.token for c in concepts]
    written = tokens_in(prompt)
    for token in written:
        if token not in known:
            there = f"this pack knows {', '.join(known)}" if known else f"no pack is in use, give one with {option}="
            raise InputError(f"the prompt uses {token}, which was not learned; {there}")
    return written


def find_positions(
    token_ids: Sequence[int], modifier_id: int, noun_ids: Sequence[int], *, phrase: str
) -> tuple[int, list[int]]:
    """Return where a concept stands in a tokenised caption: its modifier, and the pieces of its noun after it.

    Words between the two (``"<new1> big cat"``) are stepped over.

    Raises:
        InputError: the modifier or its noun is missing.
    """
    ids, wanted = list(token_ids), list(noun_ids)
    if modifier_id not in ids:
        raise InputError(f"the prompt must contain {phrase!r}; it was cut off or left out, so shorten or complete it")
    modifier = ids.index(modifier_id)
    for start in range(modifier + 1, len(ids) - len(wanted) + 1):
        if ids[start : start + len(wanted)] == wanted:
            return modifier, list(range(start, start + len(wanted)))
    raise InputError(f"the noun must follow its token, as in {phrase!r}; write it so")
