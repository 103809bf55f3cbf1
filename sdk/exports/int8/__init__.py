"""A quantised UNet beside the exported one, for OpenVINO: 8-bit integers where that shows little.

NNCF quantises after training, with what a drawing feeds the UNet at all noise levels (:mod:`.feeds`). Layers that stand
it badly are found by measuring and left as they were (:mod:`.sensitive`). What comes out is measured again, and nothing
is written if it is not good enough (:mod:`.quality`).
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from .record import Int8

if TYPE_CHECKING:
    from ...pack import ConceptPack
    from ...runtime import Progress


def need_packages() -> None:
    """Raise :class:`InputError` if what quantises is not installed."""
    for package in ("openvino", "nncf"):
        try:
            with _untold():
                __import__(package)
        except ImportError as error:
            raise InputError(f"int8 needs {package}; run: pip install 'personalizer-sdk[int8]'") from error


def quantize_folder(
    folder: Path,
    pack: ConceptPack | None,
    shared: bool,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Int8:
    """Write the quantised UNet of an exported folder into it, and into its manifest.

    Args:
        folder: the exported folder, whole but for that.
        pack: whose prompts are drawn, beside general ones: the one that is merged in, or any.
        shared: whether the folder has no pack merged in.
        progress: told about the steps of the phase ``"quantize"``.
        cancel: looked at before each.

    Raises:
        InputError: packages that are missing.
        OutputError: the pictures would be too much worse.
        Cancelled: ``cancel`` was set.
    """
    need_packages()
    with _untold():
        from .quantizing import quantized

        return quantized(folder, pack, shared, progress, cancel)


@contextmanager
def _untold():
    """NNCF sends statistics of its use over the network unless it takes this for a machine that tests; and it talks."""
    name, before = "NNCF_CI", os.environ.get("NNCF_CI")
    os.environ[name] = "1"
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
