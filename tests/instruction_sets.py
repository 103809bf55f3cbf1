"""The compiled CPU library on each instruction set, where this processor and this build have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sdk.bindings import capi

ALL = ("amx", "avx512_bf16", "avx512", "avx2", "portable", "tiles")


def needs_library() -> None:
    """Skip a module where the library was not built."""
    try:
        capi.library()
    except ImportError as error:
        pytest.skip(f"no compiled CPU library: {error}", allow_module_level=True)


@contextmanager
def computing_on(name: str) -> Iterator[str]:
    """Compute a block on an instruction set; skip the test where it is missing."""
    try:
        capi.use_instruction_set(name)
    except ValueError:
        pytest.skip(f"the instructions of {name} are missing: this processor or this build does not have them")
    try:
        yield name
    finally:
        capi.use_instruction_set(None)
