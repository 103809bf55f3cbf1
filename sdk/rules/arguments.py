"""What users give to calls, checked: whole numbers, numbers, texts, what is to be called, what cancels.

Every function returns the value in a type of Python, or raises :class:`sdk.errors.InputError` naming the argument.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AnySet
from itertools import islice
from math import isfinite
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

from ..errors import InputError

T = TypeVar("T")
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes and characters, where most systems end
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: object) -> str:
    """Return a value as a message may show it, short, with its type where that is what is wrong."""
    try:
        return f"{_SHORT.repr(value)} ({type(value).__name__})"
    except Exception:  # of a stranger's __repr__
        return f"a {type(value).__name__}"


def whole(value: Any, name: str, low: int, high: int | None = None) -> int:
    """Return a whole number between two bounds, both allowed; numpy's count, True and 2.0 do not."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # ValueError, RuntimeError: arrays and tensors of several
        raise InputError(f"{name} must be a whole number, got {shown(value)}") from None
    if result < low or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InputError(f"{name} must be {bounds}, got {_SHORT.repr(result)}")
    return result


def number(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """Return a finite number between two bounds, both allowed; numpy's count, True and texts do not."""
    try:
        if isinstance(value, (bool, str, bytes, bytearray)) or type(value).__name__ == "bool":
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"{name} must be a number, got {shown(value)}") from None
    if not isfinite(result):
        raise InputError(f"{name} must be a finite number, got {result}")
    if (low is not None and result < low) or (high is not None and result > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{name} must be {bounds}, got {result:g}")
    return result


def text(value: Any, name: str) -> str:
    """Return a text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} holds half a character (a lone surrogate); write it anew") from None
    return value


def texts(value: Any, name: str, most: int) -> list[str]:
    """Return a text, or several, as a list of at least one."""
    given = [value] if isinstance(value, str) else several(value, name, "text", most)
    if not given:
        raise InputError(f"give at least one {name}")
    return [text(each, name) for each in given]


def several(value: Any, name: str, what: str, most: int) -> list[Any]:
    """Return what a list, a tuple, an iterator holds, in its order; ``what`` one of them is."""
    wrong = f"{name} must be a {what} or a list of {what}s, got {shown(value)}"
    if isinstance(value, (str, bytes, bytearray, Mapping, AnySet)):
        raise InputError(wrong)
    try:
        found = list(islice(value, most + 1))
    except TypeError:  # nothing to go through, or an array of no dimension
        raise InputError(wrong) from None
    if len(found) > most:
        raise InputError(f"{name} holds more than {most} {what}s; give fewer")
    return found


def listed(value: Any, name: str, what: str) -> Sequence[Any]:
    """Return a list or a tuple."""
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must be a list of {what}, got {shown(value)}")
    return value


def of_type(value: Any, kind: type[T], name: str) -> T:
    """Return an object of a class."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}, got {shown(value)}; make or read one first")
    return value


def optional(value: Any, kind: type[T], name: str) -> T | None:
    """Return an object of a class, or ``None``."""
    return None if value is None else of_type(value, kind, name)


def path(value: Any, name: str) -> Path:
    """Return a path out of a text or a path, one that a system can have."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(f"{name} must be a path, got {shown(value)}")
    given = os.fspath(value)
    if not given:
        raise InputError(f"{name} is an empty text; give a path, or . for this folder")
    try:
        longest = max(len(part.encode()) for part in given.split("/"))
    except UnicodeEncodeError:
        longest = 0  # a name that is no text, which systems can have
    if "\0" in given or longest > _LONGEST_NAME or len(given) > _LONGEST_PATH:
        raise InputError(f"{name} is no path that a system can have, got {shown(given)}")
    return Path(given)


def flag(value: Any, name: str) -> bool:
    """Return True or False, numpy's too."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def to_be_called(value: Any, name: str) -> Any:
    """Return something callable, or ``None``."""
    if value is not None and not callable(value):
        raise InputError(f"{name} must be a function, got {shown(value)}")
    return value


def cancelling(value: Any, name: str = "cancel") -> Any:
    """Return an event, or ``None``."""
    if value is not None and not callable(getattr(value, "is_set", None)):
        raise InputError(f"{name} must be a threading.Event, got {shown(value)}")
    return value
