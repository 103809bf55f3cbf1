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


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_core_is_clean(tmp_path, sanitizer):
    flags = ["-g", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{ROOT}/csrc/include"]
    x86 = ["-DPK_X86"] if platform.machine() == "x86_64" else []
    driver = tmp_path / "driver.o"
    source = ROOT / "tests" / "bindings" / "driver.c"
    subprocess.run(
        ["gcc", "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", *flags, "-c", source, "-o", driver], check=True
    )
    sources = sorted((ROOT / "csrc").glob("*.cpp"))
    program = tmp_path / "driver"
    subprocess.run(["g++", "-std=c++20", *x86, *flags, *sources, driver, "-o", program, "-lm", "-lpthread"], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "portable" in result.stdout
    assert "tiles" in result.stdout
