"""The C++ core under the address and undefined-behaviour sanitizers, called from C."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++)"),
]


def built(folder: Path, driver: str, sanitizer: str) -> Path:
    """Return a program of a driver of tests/bindings and the whole core, both under a sanitizer."""
    flags = ["-g", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{ROOT}/csrc/include"]
    x86 = ["-DPK_X86"] if platform.machine() == "x86_64" else []
    source, compiled, program = ROOT / "tests" / "bindings" / f"{driver}.c", folder / "driver.o", folder / driver
    warnings = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *warnings, *flags, "-c", source, "-o", compiled], check=True)
    core = sorted((ROOT / "csrc").glob("*.cpp"))
    subprocess.run(["g++", "-std=c++20", *x86, *flags, *core, compiled, "-o", program, "-lm", "-lpthread"], check=True)
    return program


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_core_is_clean(tmp_path, sanitizer):
    program = built(tmp_path, "driver", sanitizer)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "portable" in result.stdout
    assert "tiles" in result.stdout


@pytest.mark.parametrize(("sanitizer", "calls"), [("address,undefined", 40_000), ("thread", 4_000)])
def test_core_is_clean_whatever_it_is_called_with(tmp_path, sanitizer, calls):
    """Random shapes, strides, types, threads and instruction sets; NaN and infinities; every fourth call is wrong."""
    program = built(tmp_path, "random_driver", sanitizer)
    for seed in (1, 2):
        result = subprocess.run([program, str(calls // 2), str(seed)], capture_output=True, text=True)
        assert result.returncode == 0, f"seed {seed}: {result.stderr}"
        used = {name: int(times) for name, times in (line.split() for line in result.stdout.splitlines())}
        assert min(used["portable"], used["tiles"]) > calls // 100
