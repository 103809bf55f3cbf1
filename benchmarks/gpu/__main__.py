"""Measure the package end to end on a GPU, beside its peers, in turns, in one process.

Sections: F, steps of a fit; G, drawing; O, exported folders; M, many packs in a batch; memory, of each family. What
cannot run (a package that is not installed, memory that is not enough) says so in the table, and the rest goes on.
Results are appended to benchmarks/results/gpu.csv. ``--dry-run`` goes through everything on the CPU with tiny models
and writes nothing, unless it is given a file.

Usage: python -m benchmarks.gpu [--only F,G] [--rounds 3] [--model FOLDER] [--exports DIR] [--dry-run]
       python -m benchmarks.gpu --table
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from sdk import quiet

from . import drawing, exported, fit, many, memory
from .rows import Row, append, machine, read
from .sizes import KINDS, Sizes, dry, on_gpu
from .table import SECTIONS, document, goals, results
from .timing import FAILURES, reason_of, release

COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch's compiler keeps what it made
RESULTS = Path("benchmarks/results/gpu.csv")
MEASURES: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "F": fit.measure,
    "G": drawing.measure,
    "O": exported.measure,
    "M": many.measure,
    "memory": memory.measure,
}


def measured(sections: Iterable[str], sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of sections; one that fails ends with a row that says why."""
    for section in sections:
        begin = time.perf_counter()
        try:
            yield from MEASURES[section](sizes)
        except FAILURES as error:
            yield Row(section, SECTIONS[section].partition(":")[0], None, note=reason_of(error))
        torch.compiler.reset()  # or recorded graphs would hold memory in the sections that follow
        release(sizes.device)
        print(f"{section}: {time.perf_counter() - begin:.0f} s", flush=True)


@contextmanager
def nothing_compiled_before() -> Iterator[None]:
    """Let the compiler keep what it makes in an empty folder in a block: an earlier run would make cold times warm."""
    before = os.environ.get(COMPILED)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[COMPILED] = folder
        try:
            yield
        finally:
            del os.environ[COMPILED]
            if before is not None:
                os.environ[COMPILED] = before


def main(given: list[str] | None = None) -> list[Row]:
    """Measure, print tables and append to the results; return the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASURES), help="sections, such as F,G; default all")
    parser.add_argument("--rounds", type=int, default=3, help="in which ways take turns, after a first one")
    parser.add_argument("--model", type=Path, help="a folder of Stable Diffusion 1.x; default random weights")
    parser.add_argument("--exports", type=Path, help="holds or gets the exported folders; default a temporary one")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of exported folders; default both")
    parser.add_argument("--batches", default="1,4,16", help="pictures drawn together, in section G")
    parser.add_argument("--skip", help="ways of F and G with this in their names, such as compile: minutes less")
    parser.add_argument("--compile-mode", default="reduce-overhead", help="of diffusers with torch.compile")
    parser.add_argument("--csv", type=Path, help=f"append there; default {RESULTS}, and nowhere in a dry run")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what the documentation shows of the results")
    arguments = parser.parse_args(given)
    file = arguments.csv or RESULTS
    if arguments.table:
        print(document(read(file)))
        return []
    sections = arguments.only.split(",")
    kinds = tuple(arguments.kinds.split(","))
    if not set(sections) <= MEASURES.keys() or not set(kinds) <= set(KINDS) or arguments.rounds < 1:
        parser.error(f"--only takes {', '.join(MEASURES)}; --kinds {', '.join(KINDS)}; --rounds at least 1")
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("no GPU here; --dry-run goes through everything on the CPU")
    chosen = dry() if arguments.dry_run else on_gpu(arguments.rounds)
    sizes = replace(
        chosen,
        model=arguments.model,
        exports=arguments.exports,
        kinds=kinds,
        compile_mode=arguments.compile_mode,
        skip=tuple(arguments.skip.split(",")) if arguments.skip else (),
    )
    if not arguments.dry_run:
        sizes = replace(sizes, batches=tuple(int(count) for count in arguments.batches.split(",")))
    quiet()
    about = machine(sizes.device)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    found: dict[tuple[str, str, str], Row] = {}
    with nothing_compiled_before():
        for row in measured(sections, sizes):
            found[row.key] = row  # a section may say more exactly what it said before
            if not arguments.dry_run or arguments.csv:
                append(file, about, [row])  # at once: a run that is cut off keeps what it had
    rows = list(found.values())
    print("\n" + results(rows, judged=not arguments.dry_run))
    print("dry run finished: figures above mean nothing" if arguments.dry_run else goals(rows))
    return rows


if __name__ == "__main__":
    main()
