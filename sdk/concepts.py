"""Concepts, their tokens, the captions of the reference picture, and where the tokens stand in a prompt."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError

MAX_CONCEPTS = 8  # more phrases than this leave no room in a prompt of 77 tokens
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


def resolve_concepts(concepts: Sequence[str | Concept]) -> list[Concept]:
    """Check concepts and give each its token.

    Raises:
        InputError: none or too many, an empty noun, a malformed or repeated token.
    """
    if isinstance(concepts, str) or not concepts:
        raise InputError("name at least one concept, such as ['cat', 'dog']")
    if len(concepts) > MAX_CONCEPTS:
        raise InputError(f"{len(concepts)} concepts are too many; name at most {MAX_CONCEPTS}")
    resolved = []
    for index, item in enumerate(concepts, start=1):
        concept = item if isinstance(item, Concept) else Concept(item)
        noun = " ".join(str(concept.noun).split())
        if not noun:
            raise InputError(f"concept {index} has an empty class; name it by a noun such as 'cat'")
        if _TOKEN.search(noun):
            raise InputError(f"the class {noun!r} holds a token; give the plain noun, tokens are added for you")
        token = concept.token or f"<new{index}>"
        if not _TOKEN.fullmatch(token):
            raise InputError(f"the token {token!r} must be a word in angle brackets, such as '<new1>'")
        resolved.append(Concept(noun, token))
    tokens = [c.token for c in resolved]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"every concept needs a token of its own, got {', '.join(tokens)}")
    return resolved


def join_phrases(phrases: Sequence[str]) -> str:
    """``a and b``, ``a, b, and c``."""
    if len(phrases) <= 2:
        return " and ".join(phrases)
    return ", ".join(phrases[:-1]) + f", and {phrases[-1]}"


def target_caption(concepts: Sequence[Concept], prefix: str, rng: random.Random, swap_probability: float) -> str:
    """Caption of the reference picture: ``"[prefix] photo of a <new1> cat and <new2> dog"``.

    With ``swap_probability`` the concepts are named in another order.
    """
    order = list(concepts)
    if len(order) > 1 and rng.random() < swap_probability:
        while order == list(concepts):
            rng.shuffle(order)
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


def check_tokens(prompt: str, concepts: Sequence[Concept], option: str) -> list[str]:
    """Return the tokens written in a prompt, all of them learned.

    Args:
        prompt: what is to be drawn.
        concepts: of the pack in use; none without a pack.
        option: the argument that would give a pack, for the message.

    Raises:
        InputError: an empty prompt, or a token that was not learned.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("the prompt is empty; describe what to draw")
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
