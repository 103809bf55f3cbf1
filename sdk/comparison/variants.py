"""What a comparison compares: methods, presets and ablations, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..methods import METHODS, PRESETS, method_class


@dataclass(frozen=True)
class Arm:
    """One way to fit.

    Attributes:
        name: how tables call it: ``disendiff``, ``disendiff:best``, ``disendiff:no-bind``.
        method: name of the method.
        preset: of the method.
        changes: settings on top.
    """

    name: str
    method: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)


def resolve_arm(name: str) -> Arm:
    """Return the arm of a name: a method (as its authors' code does it), ``method:preset`` or ``method:variant``.

    Variants are the ablations that a method's file lists.

    Raises:
        InputError: an unknown method, preset or variant.
    """
    method, _, variant = name.partition(":")
    chosen = method_class(method)
    if not variant:
        return Arm(name, method, "reference")
    if variant in PRESETS:
        return Arm(name, method, variant)
    if variant in chosen.variants:
        return Arm(name, method, chosen.variants[variant].preset, chosen.variants[variant].changes)
    known = ", ".join((*PRESETS, *chosen.variants))
    raise InputError(f"{method} has no preset or ablation {variant!r}; choose one of {known}")


def resolve_arms(names: list[str] | tuple[str, ...] | None) -> list[Arm]:
    """Return the arms of several names; ``None`` takes every method and DisenDiff's best preset.

    Raises:
        InputError: none, one twice, or an unknown one.
    """
    names = [*METHODS, "disendiff:best"] if names is None else list(names)
    if not names:
        raise InputError("name at least one method to compare")
    if len(set(names)) < len(names):
        raise InputError(f"a method is named twice in {', '.join(names)}; name each once")
    return [resolve_arm(name) for name in names]
