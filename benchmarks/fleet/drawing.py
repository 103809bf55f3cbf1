"""Many pictures through Ray Data while the command and its workers are killed: is each there once?

Usage: python -m benchmarks.fleet.drawing [--rows 2000] [--packs 50] [--kills 3] [--workers 2] [--output out/drawing]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet.fits import Nodes, kill_actor, write_table
from sdk.fleet import fit_many
from sdk.runtime import keep_memory, quiet

_LOOKS = 0.2  # seconds


def some_packs(folder: Path, count: int, model: str) -> list[Path]:
    """Fit so many packs, unless they are there."""
    result = fit_many(write_table(folder, count), folder / "out", model=model, device="cpu", threads=1)
    return [folder / "out" / each.pack for each in result.outcomes]


def trial(folder: Path, rows: int, packs: int, kills: int, workers: int, model: str) -> dict[str, Any]:
    """Draw them, and return what was found."""
    places = some_packs(folder / "packs", packs, model)
    table = folder / "rows.jsonl"
    lines = [
        {"prompt": "photo of a <new1> cat", "pack": str(places[n % packs]), "seed": n // packs} for n in range(rows)
    ]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    nodes = Nodes(workers)
    program = [sys.executable, "-m", "sdk.commands.main", "generate-many", str(table), "--model", model]
    program += ["--output", str(folder / "out"), "--address", nodes.cluster.address, "--workers", str(workers)]
    program += ["--threads", "1", "--steps", "8", "--device", "cpu"]
    wanted = ["worker", "command"] * kills
    random.shuffle(wanted)
    after = sorted(random.sample(range(rows // 10, rows), len(wanted)))
    begin = time.monotonic()
    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while running.poll() is None or wanted:
            done = len(list((folder / "out/pictures").glob("*.png")))
            if wanted and done >= after[0]:
                if wanted[0] == "command":
                    running.kill()
                    running.wait()
                    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                elif not kill_actor("_Drawing"):
                    time.sleep(_LOOKS)
                    continue
                print(f"killed a {wanted.pop(0)} after {done} pictures", flush=True)
                after.pop(0)
            elif running.poll() is not None:
                break
            time.sleep(_LOOKS)
    finally:
        nodes.close()
    taken = time.monotonic() - begin
    with (folder / "out/pictures.csv").open(newline="", encoding="utf-8") as file:
        said = list(csv.DictReader(file))
    there = {each.name for each in (folder / "out/pictures").iterdir()}
    return {
        "rows": len(said),
        "done": sum(row["status"] == "done" for row in said),
        "pictures": len(there),
        "each row's is there": {Path(row["picture"]).name for row in said} == there,
        "kills left": len(wanted),
        "return code": running.returncode,
        "seconds": taken,
        "pictures a second": rows / taken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--packs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=3, help="of each kind: workers, the command")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out/drawing"))
    parser.add_argument("--model", default="bundled")
    given = parser.parse_args()
    quiet()
    keep_memory()
    found = trial(given.output.absolute(), given.rows, given.packs, given.kills, given.workers, given.model)
    for name, value in found.items():
        print(f"{name:>22}  {f'{value:.3f}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
