"""Text of users and files as a terminal, a log or a page may show it."""

from __future__ import annotations

import unicodedata

LONGEST = 500  # characters of a message; a file's text may be of any length
# These move the cursor, start a line, or turn the reading order.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, longest: int = LONGEST) -> str:
    r"""Return text in one line without control characters: they are written out, as in ``\x1b``.

    Args:
        text: anything; ``str()`` of it is shown.
        longest: characters that are kept; the middle of longer texts is left out.
    """
    whole = str(text)
    if len(whole) > longest:  # before it is escaped, which may take long
        whole = _without_middle(whole, longest)
    shown = "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN else c for c in whole)
    return shown if len(shown) <= longest else _without_middle(shown, longest)


def _without_middle(text: str, longest: int) -> str:
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _escaped(character: str) -> str:
    return " " if character in "\t\n\r" else character.encode("unicode_escape", "surrogatepass").decode("ascii")
