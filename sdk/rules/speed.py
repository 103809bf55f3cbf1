"""How a call that draws saves time: fewer steps, guidance where it counts, deep features that are used again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from .arguments import shown, text

_FEWEST = 10  # steps; of fewer each changes too much for features to be used again


@dataclass(frozen=True)
class Speed:
    """What one level of speed means.

    Attributes:
        name: one of :data:`SPEEDS`.
        scheduler: for calls that name none; ``None``: the model's own.
        steps: for calls that name none; ``None``: what the model recommends.
        guided_above: share of the noise levels up to which guidance is left out, which hardly shows there
            (Kynkaanniemi et al., NeurIPS 2024).
        every: the whole UNet is computed in each of so many steps, and its first and last layers alone in those between
            (DeepCache, Ma et al., CVPR 2024); 1: always.
    """

    name: str
    scheduler: str | None = None
    steps: int | None = None
    guided_above: float = 0.0
    every: int = 1

    @property
    def shortens(self) -> bool:
        """Whether single steps are cheaper, and not only fewer."""
        return self.every > 1 or self.guided_above > 0

    def unshortened(self) -> Speed:
        """The same with whole steps."""
        return replace(self, guided_above=0.0, every=1)

    def of(self, steps: int) -> Speed:
        """What it means for so many steps: few are never shortened."""
        return self if steps >= _FEWEST else self.unshortened()

    def guided(self, timestep: float, levels: int) -> bool:
        """Whether a step is guided.

        Args:
            timestep: of the step.
            levels: of noise, in all.
        """
        return timestep > self.guided_above * levels


EXACT = Speed("exact")
_LEVELS = {
    "exact": EXACT,
    "balanced": Speed("balanced", "dpm++", 20),
    "fast": Speed("fast", "dpm++", 20, 0.3, 3),
}
SPEEDS = tuple(_LEVELS)


def check_speed(name: Any, recommended: int) -> tuple[Speed, list[str]]:
    """Return the speed of a call, and notes.

    Args:
        name: one of :data:`SPEEDS`.
        recommended: steps that the model recommends.

    Raises:
        InputError: another name.
    """
    if text(name, "speed") not in _LEVELS:
        raise InputError(f"speed must be one of {', '.join(SPEEDS)}, got {shown(name)}")
    speed = _LEVELS[name]
    if speed is not EXACT and recommended < _FEWEST:
        return EXACT, [f"speed has no effect: this model draws in {recommended} steps as it is"]
    return speed, []
