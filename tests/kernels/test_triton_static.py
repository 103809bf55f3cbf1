"""What the Triton kernels cost on GPUs that are not here: compiled for them, read off the binaries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
GOLDEN = Path(__file__).with_name("triton_static.json")
SHARED = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227}  # KB that one program can have


def compiled(*capabilities: int) -> dict[str, dict]:
    """Return the table of these GPUs, from a process in which Triton compiles instead of interpreting."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "sdk.kernels.impl.triton_static", *map(str, capabilities)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def check(table: dict[str, dict]) -> None:
    golden = json.loads(GOLDEN.read_text())
    known = golden["kernels"] if golden["triton"] == importlib.metadata.version("triton") else {}
    assert table
    for name, cost in table.items():
        assert cost["spill"] <= (160 if "T=256" in name else 0 if name.endswith("sm_90") else 64), name
        assert cost["shared"] <= 1024 * SHARED[name.rpartition(" ")[2]], name
        if "attention" in name or "ward" in name:
            assert cost["instructions"] != "fma" or "fp32" in name, name
        if name in known:
            for figure in ("registers", "spill", "shared"):
                assert cost[figure] <= known[name][figure], f"{name}: {figure} grew"
            assert cost["instructions"] == known[name]["instructions"], name


def test_hopper_neither_spills_nor_grows():
    check(compiled(90))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 86, 89, 100])
def test_other_gpus_neither_spill_nor_grow(capability):
    check(compiled(capability))
