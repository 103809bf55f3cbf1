"""Public names of a package, loaded when they are asked for (PEP 562)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

# What a smaller installation lacks, and the extra that brings it.
EXTRAS = dict.fromkeys(("torch", "diffusers", "transformers", "safetensors", "tqdm", "psutil"), "torch")
EXTRAS |= {"onnxruntime": "deploy", "tokenizers": "deploy", "onnx": "onnx", "onnxscript": "onnx"}
EXTRAS |= dict.fromkeys(("fastapi", "uvicorn", "prometheus_client", "pydantic", "python_multipart"), "serve")
EXTRAS |= {"httpx": "client", "gradio": "studio", "pyarrow": "fleet", "ray": "ray"}


def needed_extra(error: ModuleNotFoundError) -> str | None:
    """Return what to tell about a package that is missing, or ``None`` if it is none of ours to install."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return None if extra is None else f"needs {error.name}; run: pip install 'personalizer-sdk[{extra}]'"


@contextmanager
def naming_extras(name: str) -> Iterator[None]:
    """Let errors about packages that are missing say what to install, for whatever has that name."""
    try:
        yield
    except ModuleNotFoundError as error:
        needed = needed_extra(error)
        if needed is None:
            raise
        raise ModuleNotFoundError(f"{name} {needed}", name=error.name) from error


def public_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package.

    Args:
        package: its name.
        homes: the module of each public name, relative to the package.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with naming_extras(f"{package}.{name}"):
            return getattr(import_module(homes[name], package), name)

    return find


def _worth_telling(record: logging.LogRecord) -> bool:
    """transformers says at every start that it misses torchvision; nothing here needs that."""
    return "requires torchvision" not in record.getMessage()


logging.getLogger("transformers.utils.import_utils").addFilter(_worth_telling)  # it tells while it is imported
