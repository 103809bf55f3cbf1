"""Dataclasses of settings out of plain values (a TOML file, JSON), and back."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

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
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    made = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"there is no setting {prefix + name!r}; known settings: {', '.join(known) or 'none'}")
        made[name] = _converted(hints[name], value, prefix + name)
    try:
        return kind(**made)
    except InputError:
        raise
    except ValueError as error:  # of dataclasses that do not know this package's errors
        raise InputError(f"{where or kind.__name__}: {error}") from error


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
            raise InputError(f"{name} is a group of settings; give a table, got {value!r}")
        return from_plain(hint, value, name)
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(kind) or kind for kind in allowed]
    if (value is None and NoneType in kinds) or any(_fits(kind, value) for kind in kinds if kind is not NoneType):
        if isinstance(value, (list, tuple)):
            element = get_args(allowed[0])[0]  # tuple[str, ...]
            return tuple(_converted(element, each, f"an entry of {name}") for each in value)
        if isinstance(value, float) and not isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value}")
        return value
    raise InputError(f"{name} must be of type {kinds[0].__name__}, got {value!r}")


def _fits(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {float: (float, int), tuple: (tuple, list)}.get(kind, kind))
