"""What fleets need: machines, hours, storage, money; hits of the packs that replicas remember; a driver's work.

Fits: from the seconds of one, given or measured on a GPU (`docs/gpu.md`), and the bytes of a pack of SD 1.5, which is
written and read here. Hits: requests for packs follow Zipf's law with exponent s (the n-th most wanted pack is asked
for in proportion to n^-s); a request goes to a replica that has its pack, so that replicas remember together, least
lately used going first. The driver: how long it looks at rows before the first fit begins.

Usage: python -m benchmarks.fleet.sizes [--fit-seconds 25.3] [--draw-seconds 0.707] [--gpu-hour 2.5]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fit_step import random_model
from sdk import Concept, ConceptPack
from sdk.fleet import fit_many
from sdk.miniworld import demo_picture
from sdk.runtime import quiet

FITS, PACKS = (1_000, 1_000_000), (10_000, 100_000, 1_000_000, 10_000_000)
EXPONENTS, REMEMBERED = (0.8, 1.0, 1.2), (256, 2_048, 16_384)
_REQUESTS = 1_000_000  # of a trace; as many before, which are not counted


def large_pack() -> ConceptPack:
    """A pack of SD 1.5 with random weights: all K and V, and a concept."""
    personalizer = random_model()
    layers = {
        path: (module.to_k.weight.detach().clone(), module.to_v.weight.detach().clone())
        for path, module in personalizer.pipe.unet.named_modules()
        if path.endswith("attn2")
    }
    width = personalizer.pipe.unet.config.cross_attention_dim
    return ConceptPack([Concept("cat", "<new1>")], personalizer.base, layers, torch.randn(1, width))


def measured_pack(folder: Path) -> tuple[float, float]:
    """Megabytes of such a pack, and seconds in which it is read and checked (the file being in memory already)."""
    large_pack().save_pretrained(folder / "large")
    size = sum(file.stat().st_size for file in (folder / "large").iterdir())
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        ConceptPack.from_pretrained(folder / "large")
        times.append(time.perf_counter() - begin)
    return size / 1e6, sorted(times)[2]


class _Begun(Exception):
    """The first fit would begin."""


def seconds_a_row(folder: Path, rows: int) -> float:
    """How long a driver looks at each row before the first fit begins: its picture's bytes are read and hashed."""

    def stop(status: Any) -> None:
        raise _Begun

    demo_picture().resize((1024, 1024)).save(folder / "large.jpg", quality=95)
    taken = []
    for count in (1, 1, rows):  # the first one loads what all need
        table = folder / f"{count}.jsonl"
        row = {"image": "large.jpg", "concepts": ["cat"]}
        table.write_text("".join(json.dumps(row | {"seed": seed}) + "\n" for seed in range(count)))
        begin = time.perf_counter()
        try:
            fit_many(table, folder / f"rows-{count}", device="cpu", watch=stop)
        except _Begun:
            taken.append(time.perf_counter() - begin)
    return (taken[2] - taken[1]) / (rows - 1)


def trace(packs: int, exponent: float, requests: int) -> Iterator[int]:
    """Which pack each request is for."""
    weights = np.arange(1, packs + 1, dtype=np.float64) ** -exponent
    sums = np.cumsum(weights)
    chosen = np.random.default_rng(0).random(requests) * sums[-1]
    yield from np.searchsorted(sums, chosen).tolist()


def hits(packs: int, exponent: float, remembered: int, requests: int = _REQUESTS) -> float:
    """Share of requests whose pack is remembered, once a trace has filled the memory."""
    held: OrderedDict[int, None] = OrderedDict()
    found = 0
    for number, pack in enumerate(trace(packs, exponent, 2 * requests)):
        if pack in held:
            held.move_to_end(pack)
            found += number >= requests
        else:
            held[pack] = None
            if len(held) > remembered:
                held.popitem(last=False)
    return found / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit-seconds", type=float, default=25.3, help="of a fit; default 250 steps of SD 1.5, H100")
    parser.add_argument("--draw-seconds", type=float, default=0.707, help="of a picture; default the same, speed fast")
    parser.add_argument("--gpu-hour", type=float, default=2.5, help="price of a GPU for an hour; an assumption")
    parser.add_argument("--gigabyte-month", type=float, default=0.023, help="of storage; likewise")
    parser.add_argument("--rows", type=int, default=20_000, help="that the driver looks at")
    given = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        size, read = measured_pack(Path(scratch))
        row = seconds_a_row(Path(scratch), given.rows)
    print(
        f"a pack of SD 1.5's size: {size:.1f} MB, read and checked in {read * 1e3:.0f} ms; a fit {given.fit_seconds} s"
    )
    print(f"the driver looks at a row in {row * 1e3:.2f} ms\n")
    print("| fits | GPU hours | with 1, 16, 256 GPUs | GPUs cost | storage | a month | the driver's look |")
    print("|---|---|---|---|---|---|---|")
    for count in FITS:
        hours, stored = count * given.fit_seconds / 3600, count * size / 1e3
        walls = ", ".join(
            f"{hours / gpus:.2g} h" if hours < 100 * gpus else f"{hours / gpus:,.0f} h" for gpus in (1, 16, 256)
        )
        money = f"{hours * given.gpu_hour:,.0f} | {stored:,.0f} GB | {stored * given.gigabyte_month:,.0f}"
        print(f"| {count:,} | {hours:,.0f} | {walls} | {money} | {count * row / 60:.1f} min |")
    columns = " | ".join(f"{n:,} remembered ({n * size / 1e3:,.0f} GB)" for n in REMEMBERED)
    print(f"\n| packs | storage | s | {columns} |")
    print("|---|---|---|" + "---|" * len(REMEMBERED))
    for packs in PACKS:
        for exponent in EXPONENTS:
            shares = " | ".join(f"{hits(packs, exponent, n):.0%}" for n in REMEMBERED)
            print(f"| {packs:,} | {packs * size / 1e6:,.1f} TB | {exponent} | {shares} |", flush=True)
    worst = read / given.draw_seconds
    print(f"\na miss reads {size:.0f} MB: {worst:.0%} of the time of a picture, and what storage takes to send it")


if __name__ == "__main__":
    main()
