"""Teach a text-to-image model several things from one picture, without blending them.

>>> from sdk import Personalizer
>>> p = Personalizer.from_pretrained("bundled")
>>> pack = p.fit("photo.jpg", ["cat", "dog"])
>>> p.generate("a <new1> cat on the beach", concepts=pack).images
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Comparison, compare
    from .concepts import Concept
    from .config import FitConfig
    from .evaluation import EvaluationReport, evaluate
    from .pack import ConceptPack
    from .personalizer import Personalizer

__all__ = [
    "Comparison",
    "Concept",
    "ConceptPack",
    "EvaluationReport",
    "FitConfig",
    "Personalizer",
    "__version__",
    "compare",
    "evaluate",
]
__version__ = "0.1.0"

_HOMES = {
    "Comparison": "comparison",
    "Concept": "concepts",
    "ConceptPack": "pack",
    "EvaluationReport": "evaluation",
    "FitConfig": "config",
    "Personalizer": "personalizer",
    "compare": "comparison",
    "evaluate": "evaluation",
}


def __getattr__(name: str):
    # Lazy (PEP 562): importing the package loads neither torch nor diffusers.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "diffusers", "transformers", "safetensors", "tqdm", "psutil"):
            raise ModuleNotFoundError(
                f"sdk.{name} needs {error.name}; run: pip install 'personalizer-sdk[torch]'", name=error.name
            ) from error
        raise
