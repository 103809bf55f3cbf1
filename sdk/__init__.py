"""Teach a text-to-image model several things from one picture, without blending them.

>>> from sdk import Personalizer
>>> p = Personalizer.from_pretrained("bundled")
>>> pack = p.fit("photo.jpg", ["cat", "dog"])
>>> p.generate("a <new1> cat on the beach", concepts=pack).images
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import public_names
from .version import __version__

if TYPE_CHECKING:
    from .comparison.runs import Comparison, compare
    from .concepts import Concept
    from .config import FitConfig
    from .eval.evaluation import EvaluationReport, evaluate
    from .pack import ConceptPack
    from .personalizer import Personalizer
    from .runtime import Cancelled, Event, progress, quiet

__all__ = [
    "Cancelled",
    "Comparison",
    "Concept",
    "ConceptPack",
    "EvaluationReport",
    "Event",
    "FitConfig",
    "Personalizer",
    "__version__",
    "compare",
    "evaluate",
    "progress",
    "quiet",
]

_HOMES = {
    "Cancelled": ".runtime",
    "Comparison": ".comparison.runs",
    "Concept": ".concepts",
    "ConceptPack": ".pack",
    "EvaluationReport": ".eval.evaluation",
    "Event": ".runtime",
    "FitConfig": ".config",
    "Personalizer": ".personalizer",
    "compare": ".comparison.runs",
    "evaluate": ".eval.evaluation",
    "progress": ".runtime",
    "quiet": ".runtime",
}
__getattr__ = public_names(__name__, _HOMES)
