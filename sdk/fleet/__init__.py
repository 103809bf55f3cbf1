"""Many fits: tables of jobs, workers on one machine or many, and what came of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .fits import fit_many
    from .jobs import Job
    from .outcomes import FleetResult, Outcome, Status
    from .tables import read_jobs

_HOMES = {
    "FleetResult": ".outcomes",
    "Job": ".jobs",
    "Outcome": ".outcomes",
    "Status": ".outcomes",
    "fit_many": ".fits",
    "read_jobs": ".tables",
}
__all__ = ["FleetResult", "Job", "Outcome", "Status", "fit_many", "read_jobs"]
__getattr__ = public_names(__name__, _HOMES)
