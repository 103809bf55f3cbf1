"""What a comparison compares: methods, presets and the paper's ablations, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import InputError
from .methods import METHODS, check_method
from .presets import PRESETS

# DisenDiff's ablations (its section 4.3 and supplement), each a change of its reference preset.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-calibration": {"calibration_weight": 0.0},
    "no-bind": {"bind_weight": 0.0},
    "no-separate": {"separate_weight": 0.0},
    "no-suppression": {"suppress": 0},
    "no-gaussian": {"blur_sigma": 0.0},
    "twice-suppressed": {"suppress": 2},
    "all-scales": {"all_scales": True},
    "with-query": {"train_query": True},
    "no-order-swap": {"swap_order": 0.0},
}

# What each part of our recommended preset is worth: the preset without it.
BEST_WITHOUT: dict[str, dict[str, Any]] = {
    "best-no-calibration": {"calibration_weight": 0.0},
    "best-no-alone": {"alone": 0.0},
    "best-no-forgetting": {"forget_layout": False},
    "best-no-words": {"initializer_candidates": ()},
    "best-no-bf16": {"precision": "fp32"},
}


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
    """Return the arm of a name: a method (as its authors' code does it), ``method:preset`` or ``disendiff:ablation``.

    Ablations are those of the paper, of the reference preset, and those of our own preset.

    Raises:
        InputError: an unknown method, preset or ablation.
    """
    method, _, variant = name.partition(":")
    check_method(method)
    if not variant:
        return Arm(name, method, "reference")
    if variant in PRESETS:
        return Arm(name, method, variant)
    if method == "disendiff" and variant in ABLATIONS:
        return Arm(name, method, "reference", ABLATIONS[variant])
    if method == "disendiff" and variant in BEST_WITHOUT:
        return Arm(name, method, "best", BEST_WITHOUT[variant])
    known = ", ".join((*PRESETS, *ABLATIONS, *BEST_WITHOUT) if method == "disendiff" else PRESETS)
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
