"""Packs in the formats of other tools, and back. Each format is one file with the same four functions.

* ``add_arguments(group)``: its options on the command line.
* ``options(arguments)``: these options as keywords of ``export``.
* ``export(pack, base, folder, **options)``: writes, and returns an :class:`sdk.exports.result.Export`; what takes its
  time takes ``progress`` and ``cancel``, too.
* ``loads_in(pack, command, name)``: for ``personalizer verify``, what loads it after which command.

A format's file loads nothing heavy before it writes: the command line reads all of them for their options.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..disk.checked import shown
from ..errors import InputError
from ..lazy import public_names

if TYPE_CHECKING:
    from .authors import import_pack
    from .diffusers_layout import load_into
    from .onnx_graphs import UNetGraph, free, plain_attention, write_graph
    from .result import Export

# Formats by name, and their files.
FORMATS = {
    "onnx": "onnx",
    "lora": "lora",
    "diffusers": "diffusers_layout",
    "webui": "webui",
}


def load_format(name: str) -> Any:
    """Return the module of a format, or raise :class:`InputError` if there is none of this name."""
    if not isinstance(name, str) or name not in FORMATS:
        raise InputError(f"there is no format {shown(name)}; choose one of {', '.join(FORMATS)}")
    return import_module(f".{FORMATS[name]}", __name__)


_HOMES = {
    "Export": ".result",
    "UNetGraph": ".onnx_graphs",
    "free": ".onnx_graphs",
    "import_pack": ".authors",
    "load_into": ".diffusers_layout",
    "plain_attention": ".onnx_graphs",
    "write_graph": ".onnx_graphs",
}
__all__ = [
    "FORMATS",
    "Export",
    "UNetGraph",
    "free",
    "import_pack",
    "load_format",
    "load_into",
    "plain_attention",
    "write_graph",
]
__getattr__ = public_names(__name__, _HOMES)
