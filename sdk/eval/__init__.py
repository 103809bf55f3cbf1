"""Measuring packs: drawing for scores, scorers, reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .checking import CheckingScorer, PackChecker
    from .drawing import Drawn, draw_for
    from .encoders import EncoderScorer
    from .evaluation import EvaluationReport, evaluate
    from .expectations import Expected, expected
    from .prompt_sets import Prompt
    from .report import save_report
    from .scorers import Scorer, default_scorer, registered_scorers
    from .scores import Scores

_HOMES = {
    "CheckingScorer": ".checking",
    "Drawn": ".drawing",
    "EncoderScorer": ".encoders",
    "EvaluationReport": ".evaluation",
    "Expected": ".expectations",
    "PackChecker": ".checking",
    "Prompt": ".prompt_sets",
    "Scorer": ".scorers",
    "Scores": ".scores",
    "default_scorer": ".scorers",
    "draw_for": ".drawing",
    "evaluate": ".evaluation",
    "expected": ".expectations",
    "registered_scorers": ".scorers",
    "save_report": ".report",
}
__all__ = [
    "CheckingScorer",
    "Drawn",
    "EncoderScorer",
    "EvaluationReport",
    "Expected",
    "PackChecker",
    "Prompt",
    "Scorer",
    "Scores",
    "default_scorer",
    "draw_for",
    "evaluate",
    "expected",
    "registered_scorers",
    "save_report",
]
__getattr__ = public_names(__name__, _HOMES)
