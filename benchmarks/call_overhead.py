"""What does calling the compiled CPU kernels through ctypes cost, against a C++ extension of torch?

Compiles benchmarks/torch_ops.cpp, the same operators as a C++ extension over the same library and threads, and takes
turns with the product's operators in one process, medians. Needs g++.

Usage: python -m benchmarks.call_overhead [--rounds 300] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths

from benchmarks.kernels_cpu import processor
from benchmarks.providers import SIZES
from sdk.bindings.arrays import instruction_set, library
from sdk.kernels import CalibrationOptions, available_backends

SOURCE = Path(__file__).with_name("torch_ops.cpp")
NAMES = ("attention", "attention_backward", "calibration")
MEASURED = {
    "next to nothing": (1, 1, 9, 9, 4, 1),  # the price of a call alone
    **{name: SIZES[name] for name in ("bundled B=8", "SD1.5 16x16 B=2", "SD1.5 16x16 B=8")},
}


def load_extension(folder: Path) -> None:
    """Compile the C++ operators and register them as ``personalizer_extension``."""
    registry = torch.library.Library("personalizer_extension", "FRAGMENT")
    for name in NAMES:
        registry.define(str(getattr(torch.ops.personalizer, f"cpp_{name}").default._schema).split("::cpp_")[1])
    for name, kept, low in (("attention", 5, torch.bfloat16), ("calibration", 7, torch.float32)):
        # The product's operators carry these in Python too; nothing is differentiated here.
        torch.library.register_autograd(
            f"personalizer_extension::{name}", lambda ctx, *grads, n=kept: (None,) * n, lib=registry
        )
        torch.library.register_autocast(f"personalizer_extension::{name}", "cpu", low, lib=registry)
    load_extension.kept = registry  # type: ignore[attr-defined]  # its end would undo the definitions
    built = folder / "extension.so"
    torch_folder = Path(torch.__file__).parent / "lib"
    command = ["g++", "-shared", "-fPIC", "-O3", "-std=c++20", "-fvisibility=hidden"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", *(f"-I{path}" for path in include_paths())]
    command += [str(SOURCE), library()._name, f"-L{torch_folder}", "-ltorch_cpu", "-o", str(built)]
    subprocess.run(command, check=True)
    torch.ops.load_library(str(built))


def calls(size: str, dtype: torch.dtype) -> dict[str, tuple[Tensor | float | bool | int, ...]]:
    """Return the arguments of each operator for one layer."""
    batch, heads, pixels, tokens, width, _ = MEASURED[size]
    torch.manual_seed(0)
    query, key, value, grad = (
        torch.randn(batch, n, heads, width).to(dtype).transpose(1, 2) for n in (pixels, tokens, tokens, pixels)
    )
    indices = torch.tensor([[4, 5, 7, 8]]).repeat(batch, 1)
    side = int(pixels**0.5)
    inputs = (query, key, value, indices, width**-0.5)
    return {
        "attention": inputs,
        "attention_backward": (grad, torch.randn(batch, 4, pixels), *inputs),
        "calibration": (torch.rand(batch, 4, side, side), *astuple(CalibrationOptions())),
    }


def in_turns(rivals: list[Callable], arguments: tuple, rounds: int) -> list[float]:
    """Return the median seconds of each, taken in turns."""
    times: list[list[float]] = [[] for _ in rivals]
    with torch.no_grad():
        for turn in range(rounds + 20):
            for place in (0, 1) if turn % 2 else (1, 0):  # whoever comes second finds another cache
                begin = time.perf_counter()
                rivals[place](*arguments)
                if turn >= 20:
                    times[place].append(time.perf_counter() - begin)
    return [statistics.median(values) for values in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if available_backends()["cpp"] != "ready":
        raise SystemExit(available_backends()["cpp"])
    torch.set_num_threads(arguments.threads)
    ours = {name: getattr(torch.ops.personalizer, f"cpp_{name}").default for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        load_extension(Path(folder))
        theirs = {name: getattr(torch.ops.personalizer_extension, name).default for name in NAMES}
        print(f"{processor()}, {instruction_set()}, {arguments.threads} threads, torch {torch.__version__}\n")
        print(
            "| size, type | operator | C++ extension, us | ctypes, us | more, us | more, % |\n|---|---|---|---|---|---|"
        )
        for size, (*_, layers) in MEASURED.items():
            for dtype in (torch.float32, torch.bfloat16):
                title = f"{size}, {str(dtype)[6:]}"
                times = compared(ours, theirs, calls(size, dtype), arguments.rounds)
                for name, figures in times.items():
                    print(row(title, name, *figures), flush=True)
                counts = {"attention": layers, "attention_backward": layers, "calibration": 1}
                step = [sum(counts[name] * times[name][place] for name in NAMES) for place in (0, 1)]
                print(row(title, f"{layers} layers and the loss", *step), flush=True)


def compared(ours: dict, theirs: dict, given: dict[str, tuple], rounds: int) -> dict[str, list[float]]:
    """Return for each operator the seconds as a C++ extension and through ctypes, which must give the same bits."""
    for name in NAMES:
        for a, b in zip(ours[name](*given[name]), theirs[name](*given[name]), strict=True):
            if not torch.equal(a, b) or a.stride() != b.stride():
                raise SystemExit(f"{name} gives other bits through the extension: no figure")
    return {name: in_turns([theirs[name], ours[name]], given[name], rounds) for name in NAMES}


def row(title: str, name: str, old: float, new: float) -> str:
    figures = f"{1e6 * old:.1f} | {1e6 * new:.1f} | {1e6 * (new - old):.1f} | {100 * (new / old - 1):.1f}"
    return f"| {title} | {name} | {figures} |"


if __name__ == "__main__":
    main()
