"""The ctypes view against the C header, and the runner on another library's threads."""

from __future__ import annotations

import ctypes
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from sdk.bindings import arrays, capi

HEADER = Path(__file__).parents[2] / "csrc" / "include" / "personalizer_kernels.h"
BUILT = bool(list(Path(capi.__file__).parent.glob("_core.*")))
C_NAMES = {"int64_t": ctypes.c_int64, "int": ctypes.c_int, "double": ctypes.c_double, "float": ctypes.c_float}


def in_header(name: str) -> list[tuple[str, type]]:
    """Return the members of a struct of the header with their ctypes types."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = re.search(rf"typedef struct {{([^}}]*)}} {name};", text)
    assert body is not None, name
    members = []
    for line in body[1].split(";"):
        words = line.replace("const ", "").split(None, 1)
        for member in words[1].split(",") if len(words) == 2 else []:
            pointer = "*" in member
            kind = ctypes.c_void_p if pointer else C_NAMES.get(words[0], ctypes.c_int)  # an enum is an int
            members.append((member.strip(" *"), kind))
    return members


@pytest.mark.skipif(not HEADER.is_file(), reason="needs a checkout: csrc/ is not here")
@pytest.mark.parametrize(
    ("structure", "name"),
    [(capi.Array, "pk_array"), (capi.Attention, "pk_attention"), (capi.Calibration, "pk_calibration")],
)
def test_structures_are_the_headers(structure, name):
    assert in_header(name) == list(structure._fields_)


LOOP = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)
BODY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@pytest.mark.skipif(not BUILT, reason="the compiled CPU library is not here: it is built where g++ is found")
@pytest.mark.parametrize("status", [0, 1])
def test_a_loop_of_another_library_runs_the_work(status):
    """A loop that splits the work over two threads; one that fails leaves all of it to the caller."""
    library = capi.library()
    ranges = []

    @LOOP
    def loop(first, last, grain, body, argument):
        if status == 0:
            middle = (first + last) // 2
            for part in ((first, middle), (middle, last)):
                ranges.append(part)
                helper = threading.Thread(target=BODY(body), args=(*part, argument))
                helper.start()
                helper.join()
        return status

    rng = np.random.default_rng(0)
    maps = rng.random((5, 4, 6, 6), np.float32)
    want, _ = arrays.calibration_loss(maps, threads=1)
    loss = np.full(5, np.nan, np.float32)
    described = capi.Calibration(5, 2, 6, 6, 1, 0.5**0.5, 1, 1.0, 1.0, 1.0)
    runner = library.pk_threads_of(ctypes.cast(loop, ctypes.c_void_p))
    capi.check(library.pk_calibration_loss(described, maps.ctypes.data, loss.ctypes.data, None, runner))
    assert np.array_equal(loss, want)
    assert ranges == ([(0, 2), (2, 5)] if status == 0 else [])
