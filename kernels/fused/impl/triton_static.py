"""What the Triton kernels cost on a GPU that need not be there: registers, spills, shared memory, matrix instructions.

Triton compiles for any target and its wheel carries ``ptxas`` and ``cuobjdump``, so this runs anywhere. Triton must not
have been imported with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import triton_attention, triton_calibration

CAPABILITIES = (80, 86, 89, 90, 100)
_POINTERS = {
    "forward_kernel": ("query", "key", "value", "out"),
    "backward_rows_kernel": (
        "query", "key", "value", "grad_out", "grad_query", "weights_out", "grad_scores_out"
    ),
    "backward_keys_kernel": ("query", "grad_out", "weights_in", "grad_scores_in", "grad_key", "grad_value"),
}  # fmt: skip
_FLOATS = ("scale", "scale_log2", "centre", "edge", "smooth", "bind", "separate")
_OTHER_POINTERS = {"tokens": "*i64", "columns": "*fp32", "grad_columns": "*fp32", "loss": "*fp32", "grad": "*fp32"}


@dataclass(frozen=True)
class Cost:
    """Of one compiled kernel.

    Attributes:
        registers: per thread.
        spill: bytes of local memory per thread.
        shared: bytes of shared memory per program.
        instructions: kind of matrix instruction: ``"wgmma"``, ``"tcgen05"``, ``"mma"`` or ``"fma"``.
    """

    registers: int
    spill: int
    shared: int
    instructions: str


def _signature(kernel, types: dict[str, object], constants: dict[str, object]) -> dict[str, object]:
    signature: dict[str, object] = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in types:
            signature[name] = types[name]
        else:
            signature[name] = "fp32" if name in _FLOATS else "i32"
    return signature


def compile_kernel(
    kernel, types: dict[str, object], constants: dict[str, object], capability: int, options: dict[str, int]
) -> Cost:
    """Compile one kernel for a compute capability (90 is sm_90) and read its cost off the binary."""
    signature = _signature(kernel, types, constants)
    attributes: dict[tuple[int, ...], list] = {}
    for index, (name, kind) in enumerate(signature.items()):
        # What the launcher finds out: addresses and strides are multiples of 16.
        strided = isinstance(kind, str) and kind == "i32" and "_" in name
        if isinstance(kind, tuple):
            attributes |= {(index, part): [["tt.divisibility", 16]] for part in range(len(kind))}
        elif str(kind).startswith("*") or strided:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage = _resource_usage(compiled.asm["cubin"])
    return Cost(
        usage["REG"], usage["STACK"] + usage["LOCAL"], compiled.metadata.shared, _matrix_kind(compiled.asm["ptx"])
    )


def _resource_usage(binary: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], check=True, capture_output=True
        ).stdout.decode()
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def _matrix_kind(ptx: str) -> str:
    for kind in ("tcgen05.mma", "wgmma.mma", "mma.sync"):
        if kind in ptx:
            return kind.split(".")[0]
    return "fma"


def attention_costs(width: int, keys: int, tracked: int, dtype: str, capability: int) -> dict[str, Cost]:
    """Return the cost of the three attention kernels for ``dtype`` (``"bf16"``, ``"fp16"`` or ``"fp32"``)."""
    item_bytes = 4 if dtype == "fp32" else 2
    sizes = triton_attention.sizes(width, keys, tracked, item_bytes)
    part = {name: sizes[name] for name in ("WIDTH", "CHUNK", "KEYS", "BLOCK")}
    kernels = {"forward_kernel": sizes, "backward_rows_kernel": sizes, "backward_keys_kernel": part}
    costs = {}
    for name, constants in kernels.items():
        types: dict[str, object] = {**_OTHER_POINTERS, **dict.fromkeys(_POINTERS[name], f"*{dtype}")}
        costs[name] = compile_kernel(
            getattr(triton_attention, name), types, dict(constants), capability, triton_attention.options(item_bytes)
        )
    return costs


def calibration_cost(concepts: int, side: int, layers: int, capability: int) -> Cost:
    """Return the cost of the loss kernel."""
    block = max(16, triton.next_power_of_2(side))
    constants = {"CONCEPTS": concepts, "SUPPRESS": 1, "NORMALIZE": True, "BLUR": True, "ROWS": block, "COLUMNS": block}
    types: dict[str, object] = {**_OTHER_POINTERS} | {"columns": ("*fp32",) * layers, "blurred": "*fp32"}
    warps = 4 if side * side <= 256 else 8
    return compile_kernel(triton_calibration.calibration_kernel, types, constants, capability, {"num_warps": warps})


def table(capabilities: tuple[int, ...] = CAPABILITIES) -> dict[str, dict[str, int | str]]:
    """Return the costs of the shapes that matter, by ``"kernel, shape, type, capability"``."""
    rows: dict[str, dict[str, int | str]] = {}
    for capability in capabilities:
        for width, keys, dtype in (
            (160, 77, "bf16"),
            (160, 77, "fp16"),
            (64, 77, "bf16"),
            (40, 77, "bf16"),
            (32, 32, "fp16"),
            (64, 256, "fp32"),
        ):
            for name, cost in attention_costs(width, keys, 4, dtype, capability).items():
                rows[f"{name} D={width} T={keys} {dtype} sm_{capability}"] = asdict(cost)
        rows[f"calibration_kernel S=2 16x16 sm_{capability}"] = asdict(calibration_cost(2, 16, 5, capability))
    return rows


if __name__ == "__main__":
    print(json.dumps(table(tuple(map(int, sys.argv[1:])) or CAPABILITIES), indent=1))
