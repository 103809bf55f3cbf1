"""A fleet on a Ray cluster of several nodes: what it costs beside the fits, and whether kills change a bit.

A table of short fits is done three times: one after the other in one process; by the fleet, undisturbed; and by the
fleet while workers, nodes and the command itself are killed (``kill -9``) at random moments, the command being repeated
until it is through. All packs must have the same bits. Every run goes on from what is in the output folder.

Usage: python -m benchmarks.fleet.fits [--fits 200] [--kills 3] [--workers 2] [--output out/fleet]
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

import psutil

from sdk.fleet import fit_many
from sdk.miniworld import demo_picture
from sdk.runtime import keep_memory, quiet

SETTINGS = {"steps": 10, "prior": "none", "checkpoint_every": 2}
_LOOKS = 0.2  # seconds


def write_table(folder: Path, fits: int) -> Path:
    """Write a table of fits of one picture's cat that differ in their seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    demo_picture().save(folder / "pets.png")
    table = folder / "jobs.jsonl"
    row = {"image": "pets.png", "concepts": ["cat"], "settings": SETTINGS}
    table.write_text("".join(json.dumps(row | {"seed": seed, "name": f"seed {seed}"}) + "\n" for seed in range(fits)))
    return table


class Nodes:
    """A cluster of this machine: a head that computes nothing, and nodes with a core each.

    Args:
        count: of those nodes.
    """

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]

    def kill(self) -> None:
        """Kill one, and put another one in its place."""
        node = self.nodes.pop(random.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def close(self) -> None:
        """End all."""
        self.cluster.shutdown()


def kill_actor(name: str) -> bool:
    """Kill one of Ray's processes whose name holds a text; whether there was one."""
    there = [each for each in psutil.process_iter(["cmdline"]) if name in " ".join(each.info["cmdline"] or [])]
    if there:
        random.choice(there).kill()
    return bool(there)


def command(table: Path, output: Path, nodes: Nodes, model: str) -> subprocess.Popen:
    """Begin the command."""
    program = [sys.executable, "-m", "sdk.commands.main", "fit-many", str(table), "--output", str(output)]
    where = ["--address", nodes.cluster.address, "--threads", "1", "--model", model, "--device", "cpu"]
    return subprocess.Popen([*program, *where], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def disturbed(table: Path, output: Path, nodes: Nodes, model: str, kills: int, fits: int) -> dict[str, int]:
    """Run the command to its end while this and that is killed; return how often what was."""
    wanted = ["worker", "node", "command"] * kills
    random.shuffle(wanted)
    after = sorted(random.sample(range(fits), len(wanted)))  # fits that are done before each
    happened = dict.fromkeys(wanted, 0)
    running = command(table, output, nodes, model)
    while running.poll() is None or wanted:
        done = len(list((output / "jobs").glob("*.json")))
        if wanted and done >= after[0]:
            time.sleep(random.uniform(0, 2))
            kind = wanted[0]
            if kind == "command":
                running.kill()
                running.wait()
                running = command(table, output, nodes, model)
            elif kind == "node":
                nodes.kill()
            elif not kill_actor("ray::_Actor"):
                continue
            happened[kind] += 1
            wanted.pop(0)
            after.pop(0)
            print(f"killed a {kind} after {done} fits", flush=True)
        elif running.poll() is not None:
            running = command(table, output, nodes, model)  # it ended before everything was killed
        time.sleep(_LOOKS)
    if running.returncode:
        raise SystemExit(
            f"the command ended with {running.returncode}: {running.stdout.read() if running.stdout else ''}"
        )
    return happened


def hashes(output: Path) -> list[str]:
    """Return the contents' hashes of a fleet's packs, in the table's order."""
    with (output / "results.csv").open(newline="", encoding="utf-8") as file:
        return [row["content_sha256"] for row in csv.DictReader(file)]


def trial(folder: Path, fits: int, kills: int, workers: int, model: str) -> dict[str, Any]:
    """Do it all, and return what was found."""
    table = write_table(folder, fits)
    alone = fit_many(table, folder / "alone", model=model, device="cpu", threads=1)
    found: dict[str, Any] = {"failed alone": len(alone.failed), "serial, seconds": alone.seconds}
    nodes = Nodes(workers)
    try:
        begin = time.monotonic()
        process = command(table, folder / "fleet", nodes, model)
        said, _ = process.communicate()
        wall = time.monotonic() - begin
        print(said.strip().splitlines()[-1], flush=True)
        with (folder / "fleet/results.csv").open(newline="", encoding="utf-8") as file:
            worked = sum(float(row["seconds"]) for row in csv.DictReader(file))
        found |= {"fleet, seconds": wall, "fits in it, seconds": worked, "overhead": wall * workers / worked - 1}
        begin = time.monotonic()
        command(table, folder / "fleet", nodes, model).communicate()
        found["repeated, seconds"] = time.monotonic() - begin
        found["killed"] = disturbed(table, folder / "killed", nodes, model, kills, fits) if kills else {}
    finally:
        nodes.close()
    before = hashes(folder / "alone")
    found["same bits"] = before == hashes(folder / "fleet") and (not kills or before == hashes(folder / "killed"))
    found["fits"] = len(set(before))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3, help="of each kind: workers, nodes, the command")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out/fleet"))
    parser.add_argument("--model", default="bundled")
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    found = trial(arguments.output.absolute(), arguments.fits, arguments.kills, arguments.workers, arguments.model)
    for name, value in found.items():
        print(f"{name:>22}  {f'{value:.3f}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
