"""How fast are the Triton kernels? CUDA graphs, cold and warm L2, beside every rival, in one process.

For each size: forward of one layer, backward of one layer, and all layers with the loss and every gradient. A graph of
many calls is timed, so no launch from the host is in the figures: over copies of the inputs that together exceed the L2
cache several times ("cold"), and over the same inputs again and again ("warm"). Providers take turns; medians are
printed. The machine's own ceilings (copy, bf16 product) are measured in the same run, and fractions refer to them.

Appends to benchmarks/results/kernels_gpu.csv. ``--dry-run`` goes through everything once on the CPU, in Triton's
interpreter, at a small size, and writes nothing.

Usage: python -m benchmarks.kernels_gpu [--sizes ...] [--parts forward,backward] [--dtype bf16] [--csv FILE] [--dry-run]
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch

from benchmarks.providers import SIZES, make_inputs, ours, providers, same_gradients
from sdk.kernels import attention_with_columns

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = ("device", "torch", "triton", "size", "dtype", "part", "provider", "cold_us", "warm_us", "bound_us")
CALLS = 20  # in one graph
REPEATS = 15
PARTS = ("forward", "backward", "all")


@cache
def recording() -> torch.cuda.Stream:
    """The stream that calls are captured on; a backward pass runs where its forward pass ran, so here too."""
    return torch.cuda.Stream()


@contextmanager
def on_recording(device: str) -> Iterator[None]:
    """Compute on :func:`recording` in a block, after and before whatever else is computed."""
    if device != "cuda":
        yield
        return
    stream = recording()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def graph_of(call: Callable[[int], object], calls: int) -> torch.cuda.CUDAGraph:
    """Capture ``call(0) ... call(calls - 1)``."""
    with on_recording("cuda"):
        for turn in range(3):
            call(turn)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=recording()):
        for turn in range(calls):
            call(turn)
    return graph


def replay_us(graph: torch.cuda.CUDAGraph, calls: int) -> float:
    """Microseconds for one call in one replay."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1000 * begin.elapsed_time(end) / calls


def clock_us(call: Callable[[int], object], calls: int) -> float:
    begin = time.perf_counter()
    for turn in range(calls):
        call(turn)
    return 1e6 * (time.perf_counter() - begin) / calls


def compare(calls: dict[str, Callable[[int], object]], dry: bool) -> dict[str, float]:
    """Return the median microseconds of each call, taken in turns; what cannot be captured is left out."""
    if dry:
        return {name: clock_us(call, 1) for name, call in calls.items()}
    graphs = {}
    for name, call in calls.items():
        try:
            graphs[name] = graph_of(call, CALLS)
        except RuntimeError as error:
            print(f"  {name} cannot be captured in a graph: {str(error).splitlines()[0]}")
            torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(REPEATS + 2):
        for name, graph in graphs.items():
            figure = replay_us(graph, CALLS)
            if turn >= 2:
                times[name].append(figure)
    return {name: statistics.median(values) for name, values in times.items()}


def ceilings() -> tuple[float, float]:
    """Return the measured copy bandwidth in bytes per second and bf16 products in FLOP per second."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = statistics.median(replay_us(graph_of(lambda _: target.copy_(source), 5), 5) for _ in range(5))
    product = statistics.median(replay_us(graph_of(lambda _: a @ a, 5), 5) for _ in range(5))
    return 2 * 2**30 / (copy * 1e-6), 2 * 8192**3 / (product * 1e-6)


def bound_us(size: str, bytes_per_value: int, part: str, bandwidth: float) -> float:
    """Least time for the bytes that must move: inputs once, outputs once, columns."""
    batch, heads, pixels, tokens, width, layers = SIZES[size]
    queries, keys = batch * heads * pixels * width, batch * heads * tokens * width
    columns = 4 * batch * heads * 4 * pixels
    forward = bytes_per_value * (2 * queries + 2 * keys) + columns
    backward = bytes_per_value * (3 * queries + 4 * keys) + columns
    moved = {"forward": forward, "backward": backward, "all": layers * (forward + backward)}[part]
    return 1e6 * moved / bandwidth


def copies_for_cold_l2(size: str, bytes_per_value: int, layers: int, device: str) -> int:
    if device == "cpu":
        return 1
    batch, heads, pixels, tokens, width, _ = SIZES[size]
    one = layers * bytes_per_value * batch * heads * width * (3 * pixels + 2 * tokens)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(CALLS, -(-3 * cache // one)))


def parts_of(size: str, dtype: torch.dtype, device: str) -> dict[str, Callable[[bool], dict[str, Callable]]]:
    """Return for each part a function from "cold" to the calls of its providers."""
    found = providers(device)
    fastest = next(name for name in reversed(found) if name.startswith("ours")) if device == "cuda" else "ours (triton)"
    backends = {fastest: "triton", "augmented V": "augmented_v", "vectorised eager": "reference"}

    def inputs(cold: bool, layers: int | None):
        count = copies_for_cold_l2(size, dtype.itemsize, layers or SIZES[size][5], device) if cold else 1
        return [make_inputs(size, dtype, device, layers) for _ in range(count)]

    def forward(cold: bool) -> dict[str, Callable]:
        made = inputs(cold, 1)

        def attend(turn: int, backend: str):
            (layer,), indices, _ = made[turn % len(made)]
            with torch.no_grad():
                return attention_with_columns(*layer, indices, backend=backend)

        def stock(turn: int):
            with torch.no_grad():
                return torch.nn.functional.scaled_dot_product_attention(*made[turn % len(made)][0][0])

        calls = {name: (lambda turn, b=backend: attend(turn, b)) for name, backend in backends.items()}
        return calls | {"SDPA without maps": stock}

    def backward(cold: bool) -> dict[str, Callable]:
        made = inputs(cold, 1)
        graphs: dict[tuple[str, int], tuple] = {}
        with on_recording(device):
            for place, ((layer,), indices, (grad,)) in enumerate(made):
                for name, backend in backends.items():
                    out, columns = attention_with_columns(*layer, indices, backend=backend)
                    graphs[name, place] = (layer, (out, columns), (grad, torch.randn_like(columns)))
                out = torch.nn.functional.scaled_dot_product_attention(*layer)
                graphs["SDPA without maps", place] = (layer, (out,), (grad,))

        def pull(turn: int, name: str):
            layer, outs, grads = graphs[name, turn % len(made)]
            return torch.autograd.grad(outs, layer, grads, retain_graph=True)

        return {name: (lambda turn, n=name: pull(turn, n)) for name in (*backends, "SDPA without maps")}

    def everything(cold: bool) -> dict[str, Callable]:
        made = inputs(cold, None)
        chosen = found | ({"ours (triton)": lambda *a: ours(*a, backend="triton")} if device == "cpu" else {})
        if cold:
            reference = found["vectorised eager"]
            for name, provider in chosen.items():
                if "without maps" not in name and not same_gradients(provider, reference, made[0]):
                    raise SystemExit(f"{name} computes something else at {size}: no figure")
        return {name: (lambda turn, p=provider: p(*made[turn % len(made)])) for name, provider in chosen.items()}

    return {"forward": forward, "backward": backward, "all": everything}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--parts", default=",".join(PARTS), help="default all; the last compiles every rival, minutes")
    parser.add_argument("--dtype", choices=TYPES, default="bf16")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/kernels_gpu.csv"))
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    chosen = arguments.parts.split(",")
    if not set(chosen) <= set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")
    if not dry and not torch.cuda.is_available():
        raise SystemExit("no GPU here; --dry-run goes through everything on the CPU")
    device, dtype = ("cpu", torch.float32) if dry else ("cuda", TYPES[arguments.dtype])
    sizes = arguments.sizes
    if dry:
        SIZES["dry run"] = (1, 2, 16, 9, 16, 2)
        sizes = ["dry run"]
    bandwidth, products = (1e9, 1e9) if dry else ceilings()
    name = "cpu" if dry else torch.cuda.get_device_name()
    version = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "none"
    print(f"{name}, torch {torch.__version__}, triton {version}")
    if not dry:
        print(f"measured ceilings: {bandwidth / 1e12:.2f} TB/s copied, {products / 1e12:.0f} TFLOP/s in bf16\n")
    for size in sizes:
        for part, calls_for in parts_of(size, dtype, device).items():
            if part not in chosen:
                continue
            cold, warm = compare(calls_for(True), dry), compare(calls_for(False), dry)
            least = bound_us(size, dtype.itemsize, part, bandwidth)
            print(f"| {size}, {part}, {arguments.dtype} | cold us | warm us | of the bound {least:.1f} us |")
            print("|---|---|---|---|")
            rows = []
            for provider in cold:
                share = f"{least / cold[provider]:.0%}"
                print(f"| {provider} | {cold[provider]:.1f} | {warm.get(provider, float('nan')):.1f} | {share} |")
                facts = (name, torch.__version__, version, size, arguments.dtype, part, provider)
                figures = [f"{x:.2f}" for x in (cold[provider], warm.get(provider, float("nan")), least)]
                rows.append(dict(zip(FIELDS, (*facts, *figures), strict=True)))
            print(flush=True)
            if not dry:
                append(arguments.csv, rows)  # at once: a run that is cut off keeps what it had
    if dry:
        print("dry run finished: figures above mean nothing")


def append(file: Path, rows: list[dict[str, str]]) -> None:
    """Append rows to a CSV file, which is made where there is none."""
    new = not file.exists()
    with file.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, FIELDS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
