"""Values out of a file, asked for by type and bounds: a table of JSON may hold anything under any name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import isfinite
from reprlib import Repr
from typing import Any

from ..errors import SdkError
from ..printable import printable

Fail = Callable[[str], SdkError]  # makes the error out of what is wrong: "context is missing"
_SHORT = Repr()
_SHORT.maxlong = _SHORT.maxother = _SHORT.maxstring = 60


def shown(value: object) -> str:
    """Return a value as a message may show it: short, whatever it is."""
    try:
        return printable(_SHORT.repr(value), 120)
    except Exception:  # of a stranger's __repr__, or of a whole number too long to be written
        return f"a {type(value).__name__}"


class Table:
    """A table of a file, whose values are checked as they are asked for.

    Args:
        values: what the file holds there.
        fail: makes the error out of what is wrong.
        where: the table's name in the file, for messages.

    Every method raises what ``fail`` makes if the value is missing or another one than asked for.
    """

    def __init__(self, values: object, fail: Fail, where: str = "") -> None:
        if not isinstance(values, dict):
            raise fail(f"{where or 'its content'} is no table")
        self._values: dict[str, Any] = values
        self._fail, self._where = fail, where

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> dict[str, Any]:
        """The table as it is."""
        return self._values

    def is_table(self, name: str) -> bool:
        """Whether there is a table of this name."""
        return isinstance(self._values.get(name), dict)

    def names(self, most: int, longest: int = 300) -> list[str]:
        """All names in the table."""
        if len(self._values) > most:
            raise self._fail(f"{self._where or 'its content'} has {len(self._values)} entries, more than {most}")
        for name in self._values:
            if not isinstance(name, str) or not name or printable(name, longest) != name:
                raise self._fail(f"{self._where or 'its content'} has an entry without a usable name")
        return list(self._values)

    def text(self, name: str, longest: int = 300) -> str:
        """Text of one line without control characters, not empty."""
        value = self._get(name)
        if not isinstance(value, str) or not value or printable(value, longest) != value:
            raise self._wrong(name, f"text of at most {longest} plain characters", value)
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str:
        """One of some texts."""
        value = self._get(name)
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(name, f"one of {', '.join(allowed)}", value)
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number between two bounds, both allowed."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low} to {high}", value)
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """A finite number between two bounds, both allowed."""
        return self._number(name, self._get(name), low, high)

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """So many finite numbers."""
        values = self.entries(name, count)
        if len(values) != count:
            raise self._wrong(name, f"a list of {count} numbers", values)
        return tuple(self._number(name, value, low, high) for value in values)

    def entries(self, name: str, most: int) -> list[Any]:
        """A list of anything."""
        value = self._get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most} entries", value)
        return value

    def plain(self, name: str) -> dict[str, Any]:
        """A table of anything."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "a table", value)
        return value

    def table(self, name: str) -> Table:
        """A table in the table."""
        return Table(self._get(name), self._fail, self._path(name))

    def tables(self, name: str, most: int) -> list[Table]:
        """A list of tables."""
        found = self.entries(name, most)
        return [Table(value, self._fail, f"an entry of {self._path(name)}") for value in found]

    def _get(self, name: str) -> Any:
        if name not in self._values:
            raise self._fail(f"{self._path(name)} is missing")
        return self._values[name]

    def _number(self, name: str, value: Any, low: float, high: float) -> float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not low <= value <= high or not isfinite(value):
            raise self._wrong(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def _wrong(self, name: str, wanted: str, value: object) -> SdkError:
        return self._fail(f"{self._path(name)} must be {wanted}, got {shown(value)}")

    def _path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name
