"""How much faster are the compiled CPU kernels? Ratios in one process, interleaved, medians.

Prints a Markdown table and appends to a CSV file: forward, loss and backward of one SD 1.5 layer (B = 8, H = 8,
256 queries, 77 keys, width 160, 4 tracked tokens).

Usage: python -m benchmarks.kernels_cpu [--rounds 15] [--threads 2] [--csv benchmarks/results/kernels_cpu.csv]
       ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python -m benchmarks.kernels_cpu --instructions avx512_bf16

The second measures a processor with AMX, torch's products and ours, as if it had none.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from pathlib import Path

import torch

from benchmarks.providers import SIZES, make_inputs, ours, providers, same_gradients
from sdk.bindings.arrays import instruction_set, use_instruction_set

SIZE = "SD1.5 16x16 B=8"
_BATCH, _HEADS, _PIXELS, _TOKENS, _WIDTH, _ = SIZES[SIZE]
WORK = 7 * 2 * _BATCH * _HEADS * _PIXELS * _TOKENS * _WIDTH  # FLOP: seven products, of which one recomputes
FIELDS = ("processor", "instructions", "threads", "torch", "dtype", "provider", "median_ms", "low_ms", "high_ms")


def processor() -> str:
    """Return the processor's name as the system gives it."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def measure(dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Return the times in seconds of every provider, taken in turns."""
    found = providers("cpu")
    arguments = make_inputs(SIZE, dtype, "cpu", layers=1)
    for name, provider in found.items():
        if "without maps" not in name and not same_gradients(
            provider, lambda *a: ours(*a, backend="reference"), arguments
        ):
            raise SystemExit(f"{name} computes something else in {dtype}: no figure")
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 2):
        for name, provider in found.items():
            begin = time.perf_counter()
            provider(*arguments)
            if turn >= 2:
                times[name].append(time.perf_counter() - begin)
    return times


def product_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """FLOP per second of a large product in stock PyTorch: what the machine can do."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    times = []
    for turn in range(9):
        begin = time.perf_counter()
        a @ b
        if turn >= 2:
            times.append(time.perf_counter() - begin)
    return 2 * side**3 / statistics.median(times)


def share_of_rate(dtype: torch.dtype, seconds: float) -> float:
    """What share of its own rate in large products the machine reaches in the layer."""
    return WORK / seconds / product_rate(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--instructions", help="ours run on these: amx, avx512_bf16, avx512, ...; default the best")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    use_instruction_set(arguments.instructions)
    print(f"{processor()}, {instruction_set()}, {arguments.threads} threads, torch {torch.__version__}\n")
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        times = measure(dtype, arguments.rounds)
        mine = next(name for name in times if name.startswith("ours"))
        print(f"| {SIZE}, one layer, {str(dtype)[6:]} | median ms | x ours |\n|---|---|---|")
        for name, values in times.items():
            ordered = sorted(values)
            median = statistics.median(ordered)
            print(f"| {name} | {1e3 * median:.1f} | {median / statistics.median(times[mine]):.2f} |")
            low, high = ordered[len(ordered) // 5], ordered[-1 - len(ordered) // 5]
            figures = [f"{1e3 * value:.2f}" for value in (median, low, high)]
            facts = (processor(), instruction_set(), arguments.threads, torch.__version__, str(dtype)[6:], name)
            rows.append(dict(zip(FIELDS, (*facts, *figures), strict=True)))
        rate, took = product_rate(dtype), statistics.median(times[mine])
        share = WORK / took / rate
        print(f"\n{WORK / 1e9:.1f} GFLOP; large products run at {rate / 1e9:.0f} GFLOP/s: ours is at {share:.0%}\n")
    if arguments.csv:
        new = not arguments.csv.exists()
        with arguments.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
