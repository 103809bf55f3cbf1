"""csrc/include/personalizer_kernels.h through ctypes: the C structures, the loaded library, its errors.

Only here are the header's layouts repeated in Python, for numpy and torch alike; tests/bindings compares them with the
header. Calls release Python's lock while the library computes.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int64, c_void_p
from dataclasses import fields
from functools import cache
from pathlib import Path

from sdk.kernels.options import CalibrationOptions

FLOAT32, BFLOAT16 = 0, 1  # pk_type
NO_MEMORY = 4  # pk_status


class Array(ctypes.Structure):
    """``pk_array``: one ``[batch, heads, rows, width]`` array; strides in elements, the width is contiguous."""

    _fields_ = [("data", c_void_p), ("batch_stride", c_int64), ("head_stride", c_int64), ("row_stride", c_int64)]


class Attention(ctypes.Structure):
    """``pk_attention``: the sizes of an attention, its tracked tokens int64 ``[batch, tracked]``, scale and type."""

    _fields_ = [
        ("batch", c_int64),
        ("heads", c_int64),
        ("queries", c_int64),
        ("keys", c_int64),
        ("width", c_int64),
        ("tracked", c_int64),
        ("tokens", c_void_p),
        ("scale", c_float),
        ("type", c_int),
    ]


_C_TYPES: dict[str, type[c_int] | type[c_double]] = {"bool": c_int, "int": c_int, "float": c_double}
_OPTIONS = [(f.name, _C_TYPES[str(f.type)]) for f in fields(CalibrationOptions)]


class Calibration(ctypes.Structure):
    """``pk_calibration``: the sizes of maps ``[batch, 2 * concepts, height, width]``, then the loss's options."""

    _fields_ = [("batch", c_int64), ("concepts", c_int64), ("height", c_int64), ("width", c_int64), *_OPTIONS]


class Runner(ctypes.Structure):
    """``pk_runner``: how the library's work is spread over threads."""

    _fields_ = [("parallel_for", c_void_p), ("context", c_void_p)]


_FUNCTIONS = {
    "pk_threads": ([c_int], Runner),
    "pk_threads_of": ([c_void_p], Runner),
    "pk_attention_forward": ([POINTER(Attention), *[Array] * 4, c_void_p, POINTER(Runner)], c_int),
    "pk_attention_backward": (
        [POINTER(Attention), *[Array] * 4, c_void_p, *[Array] * 3, POINTER(Runner)],
        c_int,
    ),
    "pk_attention_long_backward": (
        [POINTER(Attention), *[Array] * 4, c_void_p, *[Array] * 4, POINTER(Runner)],
        c_int,
    ),
    "pk_calibration_loss": ([POINTER(Calibration), *[c_void_p] * 3, POINTER(Runner)], c_int),
    "pk_instruction_set": ([], c_char_p),
    "pk_use_instruction_set": ([c_char_p], c_int),
    "pk_message": ([c_int], c_char_p),
}


@cache
def library() -> ctypes.CDLL:
    """Return the loaded library.

    Raises:
        ImportError: it was not built, or this system cannot load it.
    """
    # Not by Python's import system: the library is no module, and serves Pythons whose extensions are named otherwise.
    found = sorted(Path(__file__).parent.glob("_core.*"))
    if not found:
        raise ImportError(
            "the compiled CPU library is missing: install the package where a C++20 compiler (g++) is found"
        )
    try:
        loaded = ctypes.CDLL(str(found[0]))
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError) as error:  # of another system, or of an older version
        raise ImportError(f"the compiled CPU library does not fit ({error}); install the package again") from error
    return loaded


def check(status: int) -> None:
    """Raise what a ``pk_status`` says.

    Raises:
        MemoryError: it is ``PK_NO_MEMORY``.
        ValueError: it is another one that is not ``PK_OK``.
    """
    if status:
        raise (MemoryError if status == NO_MEMORY else ValueError)(library().pk_message(status).decode())


def instruction_set() -> str:
    """Return what the library runs on: ``"amx"``, ``"avx512_bf16"``, ``"avx512"``, ``"avx2"`` or ``"portable"``."""
    return library().pk_instruction_set().decode()


def use_instruction_set(name: str | None) -> None:
    """Choose the instruction set; ``None`` takes the best one. Not while another thread computes.

    Raises:
        TypeError: a name that is no text.
        ValueError: this processor or this build does not have it.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the name of an instruction set is a text or None, got {name!r}")
    # C would stop reading at a null character.
    if (name is not None and "\0" in name) or library().pk_use_instruction_set(None if name is None else name.encode()):
        raise ValueError(f"instruction set {name!r} cannot be used here")
