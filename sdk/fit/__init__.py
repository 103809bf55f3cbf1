"""Learning concepts: prepare, run, and what is left on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .defaults import recommended_config
    from .fit import fit_concepts
    from .need.memory import fit_memory, learned_numbers
    from .prepare import priors_for
    from .reporting import StepReport

_HOMES = {
    "StepReport": ".reporting",
    "fit_concepts": ".fit",
    "fit_memory": ".need.memory",
    "learned_numbers": ".need.memory",
    "priors_for": ".prepare",
    "recommended_config": ".defaults",
}
__all__ = ["StepReport", "fit_concepts", "fit_memory", "learned_numbers", "priors_for", "recommended_config"]
__getattr__ = public_names(__name__, _HOMES)
