"""Dataclasses of settings out of plain values (a TOML file, JSON), and back."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .disk.checked import shown
from .errors import InputError

_LARGEST = 2**63 - 1  # whole numbers beyond it fit into no tensor, no file and no seed
T = TypeVar("T")


def setting(default: Any, text: str) -> Any:
    """Return a dataclass field with a help text, from which tables of settings are made."""
    return field(default=default, metadata={"help": text})


def from_plain(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a dataclass from plain values; groups of settings are dictionaries, tuples may be lists.

    Args:
        kind: the dataclass.
        values: by field name; what is missing keeps its default.
        where: name of the group, for messages.

    Raises:
        InputError: an unknown name or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where or 'settings'} must be a table of settings, got {shown(values)}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    made = {}
    for name, value in values.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"there is no setting {shown(f'{prefix}{name}')}; known settings: {there}")
        made[name] = _converted(hints[name], value, prefix + name)
    try:
        return kind(**made)
    except InputError:
        raise
    except (ValueError, ArithmeticError) as error:  # of dataclasses that do not know this package's errors
        raise InputError(f"{where or kind.__name__}: {error}") from error


def check_types(settings: Any) -> None:
    """Check every field of a dataclass that someone may have made without :func:`from_plain`.

    Raises:
        InputError: a value of the wrong type.
    """
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        _converted(hints[each.name], getattr(settings, each.name), each.name)


def to_plain(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as plain values for JSON."""
    plain = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            value = to_plain(value)
        plain[each.name] = list(value) if isinstance(value, tuple) else value
    return plain


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return settings with others on top; groups of settings are merged too."""
    result = dict(first)
    for name, value in second.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def _converted(hint: Any, value: Any, name: str) -> Any:
    """A value as its field wants it."""
    if isinstance(hint, type) and is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, dict):
            raise InputError(f"{name} is a group of settings; give a table, got {shown(value)}")
        return from_plain(hint, value, name)
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(kind) or kind for kind in allowed]
    if (value is None and NoneType in kinds) or any(_fits(kind, value) for kind in kinds if kind is not NoneType):
        if isinstance(value, (list, tuple)):
            element = get_args(allowed[0])[0]  # tuple[str, ...]
            return tuple(_converted(element, each, f"an entry of {name}") for each in value)
        if isinstance(value, (int, float)) and (not isfinite(value) if isinstance(value, float) else _too_large(value)):
            raise InputError(f"{name} must be a finite number that a computer can hold, got {shown(value)}")
        return value
    raise InputError(f"{name} must be of type {kinds[0].__name__}, got {shown(value)}")


def _too_large(value: int) -> bool:
    return abs(value) > _LARGEST


def _fits(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {float: (float, int), tuple: (tuple, list)}.get(kind, kind))
