"""Many fits: tables of jobs, workers on one machine or many, and what came of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .drawings.drawing import Drawing, Drawn
    from .drawings.generate import DrawnMany, generate_many
    from .fits import fit_many
    from .jobs import Job
    from .outcomes import FleetResult, Outcome, Status
    from .serving.application import serve_app
    from .tables import read_jobs

_HOMES = {
    "Drawing": ".drawings.drawing",
    "Drawn": ".drawings.drawing",
    "DrawnMany": ".drawings.generate",
    "FleetResult": ".outcomes",
    "Job": ".jobs",
    "Outcome": ".outcomes",
    "Status": ".outcomes",
    "fit_many": ".fits",
    "generate_many": ".drawings.generate",
    "read_jobs": ".tables",
    "serve_app": ".serving.application",
}
__all__ = [
    "Drawing",
    "Drawn",
    "DrawnMany",
    "FleetResult",
    "Job",
    "Outcome",
    "Status",
    "fit_many",
    "generate_many",
    "read_jobs",
    "serve_app",
]
__getattr__ = public_names(__name__, _HOMES)
