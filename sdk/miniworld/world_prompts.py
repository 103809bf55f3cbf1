"""The benchmark's prompts: ten for each concept alone and ten for all together, in the words of the drawn world."""

from __future__ import annotations

from collections.abc import Sequence

from ..eval.prompt_sets import Prompt
from .scene import BACKGROUNDS, CLASSES

# Text and background. {0} is what is asked for; {other} is a class that is not among the concepts.
_ALONE: tuple[tuple[str, str | None], ...] = (
    ("photo of a {0}", None),
    ("a {0}", "beach"),
    ("a {0}", "snow"),
    ("a {0}", "night"),
    ("a {0}", "grass"),
    ("a {0} wearing a hat", None),
    ("photo of a {0} with a hat", "beach"),
    ("a {0} next to a {other}", None),
    ("a {0} and a {other}", "snow"),
    ("photo of a small {0}", "night"),
)
# {0}, {1} and so on, joined below; the order is turned from prompt to prompt.
_TOGETHER: tuple[tuple[str, str, str, str | None], ...] = (
    ("photo of ", " and ", "", None),
    ("", " and ", "", "beach"),
    ("", " and ", "", "snow"),
    ("", " and ", "", "night"),
    ("", " and ", "", "grass"),
    ("", " next to ", "", None),
    ("", " next to ", "", "beach"),
    ("", " and ", " wearing a hat", None),
    ("photo of ", " and ", "", "snow"),
    ("photo of ", " next to ", "", "night"),
)
COUNT = len(_ALONE)


def benchmark_prompts(phrases: Sequence[str], nouns: Sequence[str], count: int = COUNT) -> list[Prompt]:
    """Return ``count`` (at most ten) prompts for each concept alone and, if there are several, for all together.

    Args:
        phrases: ``"<new1> cat"`` for each concept.
        nouns: their class words.
        count: how many of the ten prompts of each kind.
    """
    other = next(noun for noun in reversed(CLASSES) if noun not in nouns)
    prompts = []
    for index, (phrase, noun) in enumerate(zip(phrases, nouns, strict=True)):
        for text, place in _ALONE[:count]:
            tail = f" {BACKGROUNDS[place]}" if place else ""
            learned, plain = (text.format(name, other=other) + tail for name in (phrase, noun))
            prompts.append(Prompt(learned, plain, (index,), place))
    concepts = len(phrases)
    if concepts > 1:
        for turn, (opening, joint, ending, place) in enumerate(_TOGETHER[:count]):
            order = [(turn + i) % concepts for i in range(concepts)]
            joints = [joint if concepts == 2 else " and "] * (concepts - 1) + [""]
            tail = ending + (f" {BACKGROUNDS[place]}" if place else "")
            learned, plain = (
                opening + "".join(f"a {names[i]}{j}" for i, j in zip(order, joints, strict=True)) + tail
                for names in (phrases, nouns)
            )
            prompts.append(Prompt(learned, plain, tuple(sorted(order)), place))
    return prompts
