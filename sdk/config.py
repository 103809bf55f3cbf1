"""The settings of a fit, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_type_hints

from .disk.checked import shown
from .errors import InputError
from .methods import METHODS, PRESETS, method_class
from .plain import from_plain, merged, to_plain
from .settings import FitSettings


@dataclass(frozen=True, kw_only=True)
class FitConfig(FitSettings):
    """Settings of :meth:`sdk.Personalizer.fit`: those of :class:`sdk.settings.FitSettings`, and those of one method.

    A method's own settings are a group of its name: ``FitConfig.preset("best", disendiff={"calibration_weight": 0})``,
    or ``[disendiff]`` in a TOML file.
    """

    @classmethod
    def preset(cls, name: str, method: str = "disendiff", **changes: Any) -> FitConfig:
        """Return a preset, with changes.

        Args:
            name: ``"reference"`` or ``"code"``, as the authors' code behaves; ``"paper"``, as their paper says where
                that differs; ``"best"``, what this project recommends (docs/methods.md has the evidence).
            method: whose; every method has its own.
            **changes: fields to set otherwise; a dictionary changes some settings of a group.

        Raises:
            InputError: an unknown preset, method or setting, one that the method does not have, or a wrong value.
        """
        if name not in PRESETS:
            raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
        chosen = method_class(method)
        _refuse_unused(method, changes)
        return cls.from_dict(merged(chosen.preset_settings(name), changes), method).for_method(method)

    @classmethod
    def from_dict(cls, values: dict[str, Any], method: str = "disendiff") -> FitConfig:
        """Build a configuration from plain values, such as a TOML file's.

        Args:
            values: settings by name; those of the method alone in a group of its name.
            method: the method they are for.

        Raises:
            InputError: an unknown name, another method's group, or a value of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"settings are a table of names and values, got {shown(values)}")
        method_class(method)  # an unknown one is refused
        values = dict(values)
        own = values.pop(method, None)
        shared = [f.name for f in fields(cls) if f.name != "method_options"]
        for name in values:
            if name in METHODS:
                raise InputError(f"{name} holds the settings of another method; this fit is one of {method}")
            if name not in shared:
                place = _place(method_class(method).Options, name)
                if place is not None:
                    raise InputError(f"{name} is a setting of {method} alone; write it as {method}.{place}")
                known = ", ".join((*shared, method))
                raise InputError(f"there is no setting {name!r}; known settings: {known}")
        if own is not None:
            if not isinstance(own, dict):
                raise InputError(f"{method} is a group of settings; give a table, got {own!r}")
            values["method_options"] = from_plain(method_class(method).Options, own, method)
        return from_plain(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; :meth:`from_dict` takes them back."""
        plain = to_plain(self)
        own = plain.pop("method_options")
        if not own:
            return plain
        method = next(name for name in METHODS if method_class(name).Options is type(self.method_options))
        return plain | {method: own}

    def for_method(self, method: str) -> FitConfig:
        """Return the same settings with the method's own, its defaults where none are set.

        Raises:
            InputError: settings of another method, or one that the method does not have.
        """
        chosen = method_class(method)
        _refuse_unused(method, {name: getattr(self, name) for name in chosen.unused})
        if self.method_options is None:
            return replace(self, method_options=chosen.Options())
        if type(self.method_options) is not chosen.Options:
            raise InputError(f"the settings hold {type(self.method_options).__name__}, which {method} does not have")
        return self

    def with_changes(self, **changes: Any) -> FitConfig:
        """Return a copy with some fields changed; a dictionary changes some settings of a group.

        Raises:
            InputError: an unknown setting of a group, or a wrong value.
        """
        for name, value in list(changes.items()):
            method = name in METHODS
            if not method and name not in {f.name for f in fields(self)}:
                raise InputError(f"there is no setting {name!r}; see FitConfig.from_dict for the names")
            before = self.method_options if method else getattr(self, name)
            if method or (isinstance(value, dict) and is_dataclass(before)):
                kind = method_class(name).Options if method else type(before)
                if not isinstance(value, (dict, kind)):
                    raise InputError(f"{name} is a group of settings; give a table, got {shown(value)}")
                given = value if isinstance(value, dict) else to_plain(value)
                own = to_plain(before) if type(before) is kind else {}
                del changes[name]
                changes["method_options" if method else name] = from_plain(kind, merged(own, given), name)
        return replace(self, **changes)


def _refuse_unused(method: str, values: Mapping[str, Any]) -> None:
    for name in sorted(method_class(method).unused & values.keys()):
        if values[name] != getattr(FitSettings, name):  # at its default it asks for nothing
            raise InputError(f"{method} does not have the setting {name}; leave it out or choose another method")


def _place(options: type, name: str) -> str | None:
    """Where a setting is in a method's group: ``"calibration.sigma"``; ``None``: not there."""
    for field, hint in get_type_hints(options).items():
        if field == name:
            return name
        inner = _place(hint, name) if isinstance(hint, type) and is_dataclass(hint) else None
        if inner is not None:
            return f"{field}.{inner}"
    return None
